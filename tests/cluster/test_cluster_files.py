"""The files in clusters/: valid for Ray, complete, and with the protections that SECURITY.md lists."""

import copy
import importlib.util
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from tkd_search.cluster.cluster_file import read_cluster_file

CLUSTERS = Path(__file__).parents[2] / "clusters"
AUTOSCALER_FILES = ["aws.yaml", "gcp.yaml", "onprem.yaml"]


def tree(name: str) -> dict:
    return yaml.safe_load((CLUSTERS / name).read_text())


def documents(name: str) -> list[dict]:
    return list(yaml.safe_load_all((CLUSTERS / name).read_text()))


@pytest.mark.parametrize("name", AUTOSCALER_FILES)
def test_file_is_valid_for_ray(name: str) -> None:
    pytest.importorskip("jsonschema")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(tree(name))
    validate_config(config)
    assert config["head_node_type"] in config["available_node_types"]


@pytest.mark.parametrize("name", AUTOSCALER_FILES)
def test_misspelt_key_is_invalid_for_ray(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(tree(name))
    config["head_setup_command"] = []
    with pytest.raises(jsonschema.ValidationError):
        validate_config(config)


@pytest.mark.parametrize("name", [*AUTOSCALER_FILES, "kuberay.yaml"])
def test_five_lines_are_marked(name: str) -> None:
    numbers = re.findall(r"# CHANGE (\d)/5", (CLUSTERS / name).read_text())
    assert sorted(numbers) == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("name", [*AUTOSCALER_FILES, "kuberay.yaml"])
def test_file_with_placeholders_is_refused(name: str) -> None:
    from tkd_search.errors import UserError

    with pytest.raises(UserError, match="placeholder CHANGE-ME"):
        read_cluster_file(CLUSTERS / name).require_filled()


@pytest.mark.parametrize("name", AUTOSCALER_FILES)
def test_token_is_copied_and_required_and_pages_listen_on_loopback(name: str) -> None:
    config = tree(name)
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    head = " ".join(config["head_start_ray_commands"])
    workers = " ".join(config["worker_start_ray_commands"])
    assert "again ray start --head" in head
    assert "again ray start --address" in workers
    assert "RAY_AUTH_MODE=token" in (CLUSTERS / "bootstrap.sh").read_text(), "the source of ~/.tkd/env"
    assert all(". ~/.tkd/env;" in line for line in config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in head


@pytest.mark.parametrize("name", AUTOSCALER_FILES)
def test_every_mounted_file_exists(name: str) -> None:
    top = CLUSTERS.parent
    for remote, local in tree(name)["file_mounts"].items():
        if not local.startswith("~"):
            assert (top / local).exists(), f"{remote} is mounted from {local}"


def test_aws_nodes_have_all_protections() -> None:
    config = tree("aws.yaml")
    for node in config["available_node_types"].values():
        machine = node["node_config"]
        assert machine["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in machine["BlockDeviceMappings"])
        assert machine["SecurityGroupIds"], "without it Ray creates a group that is open to every address"
        assert machine["IamInstanceProfile"]["Name"]
    spot = config["available_node_types"]["gpu-spot"]["node_config"]
    assert spot["InstanceMarketOptions"]["MarketType"] == "spot"
    assert "InstanceMarketOptions" not in config["available_node_types"]["head"]["node_config"]


def test_gcp_nodes_have_all_protections() -> None:
    config = tree("gcp.yaml")
    for node in config["available_node_types"].values():
        machine = node["node_config"]
        assert machine["serviceAccounts"], "without it the head gets an account with wide rights"
        assert machine["networkInterfaces"], "without it the default network allows SSH from every address"
        items = {item["key"]: item["value"] for item in machine["metadata"]["items"]}
        assert items["block-project-ssh-keys"] == "true"
    workers = config["available_node_types"]["gpu-spot"]["node_config"]
    assert workers["scheduling"]["provisioningModel"] == "SPOT"
    assert "scheduling" not in config["available_node_types"]["head"]["node_config"]


def test_onprem_uses_autoscaler_v1() -> None:
    head = " ".join(tree("onprem.yaml")["head_start_ray_commands"])
    assert "RAY_enable_autoscaler_v2=0" in head


def test_workers_scale_from_zero() -> None:
    for name in ("aws.yaml", "gcp.yaml"):
        assert tree(name)["available_node_types"]["gpu-spot"]["min_workers"] == 0
    cluster = next(d for d in documents("kuberay.yaml") if d["kind"] == "RayCluster")
    assert cluster["spec"]["workerGroupSpecs"][0]["minReplicas"] == 0


def test_kuberay_cluster_is_valid_for_rays_autoscaler() -> None:
    pytest.importorskip("jsonschema")
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
    from ray.autoscaler._private.util import validate_config

    cluster = next(d for d in documents("kuberay.yaml") if d["kind"] == "RayCluster")
    cluster = copy.deepcopy(cluster)
    cluster["metadata"]["namespace"] = "default"  # set by the API server
    config = _derive_autoscaling_config_from_ray_cr(cluster)
    validate_config(config)
    workers = config["available_node_types"]["gpu"]
    assert workers["resources"]["GPU"] == 1
    assert workers["resources"]["CPU"] == 4
    assert workers["max_workers"] == 4
    assert config["available_node_types"]["headgroup"]["resources"]["CPU"] == 2


# Fields of these objects, copied by hand from the reference of ray.io/v1 (KubeRay 1.5): no Python package has
# the operator's schema (CRD).
_FIELDS = {
    "RayCluster": {
        "authOptions", "suspend", "managedBy", "autoscalerOptions", "headServiceAnnotations",
        "enableInTreeAutoscaling", "gcsFaultToleranceOptions", "headGroupSpec", "rayVersion",
        "workerGroupSpecs", "upgradeStrategy",
    },
    "RayJob": {
        "activeDeadlineSeconds", "waitingTTLSeconds", "preRunningDeadlineSeconds", "backoffLimit",
        "rayClusterSpec", "submitterPodTemplate", "metadata", "clusterSelector", "submitterConfig",
        "managedBy", "deletionStrategy", "entrypoint", "runtimeEnvYAML", "jobId", "submissionMode",
        "entrypointResources", "entrypointNumCpus", "entrypointNumGpus", "ttlSecondsAfterFinished",
        "shutdownAfterJobFinishes", "suspend",
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", sorted(_FIELDS))
def test_kuberay_objects_have_known_fields_only(kind: str) -> None:
    found = [d for d in documents("kuberay.yaml") if d["kind"] == kind]
    assert len(found) == 1
    assert found[0]["apiVersion"] == "ray.io/v1"
    assert set(found[0]["spec"]) <= _FIELDS[kind]


def test_kuberay_requires_the_token_and_drops_privileges() -> None:
    cluster = next(d for d in documents("kuberay.yaml") if d["kind"] == "RayCluster")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}
    groups = [cluster["spec"]["headGroupSpec"], *cluster["spec"]["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert {"requests", "limits"} <= set(container["resources"])


@pytest.mark.parametrize("file", sorted(CLUSTERS.iterdir()), ids=lambda file: file.name)
def test_every_module_that_is_run_exists(file: Path) -> None:
    modules = re.findall(r"-m,? (tkd_search[\w.]*)", file.read_text())
    assert all(importlib.util.find_spec(module) for module in modules)
    assert modules or file.suffix == ".sh"


@pytest.mark.parametrize("script", ["bootstrap.sh", "gcp-prepare.sh"])
def test_scripts_have_no_syntax_error(script: str) -> None:
    subprocess.run(["bash", "-n", str(CLUSTERS / script)], check=True)

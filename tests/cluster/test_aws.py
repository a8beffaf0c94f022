"""Preparation for AWS, Ray's bootstrap and the launch of nodes, against a moto server."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.conftest import REGION
from tkd_search.cluster.aws import prepare
from tkd_search.cluster.iam_policies import head_policy, worker_policy
from tkd_search.errors import UserError

CLUSTERS = Path(__file__).parents[2] / "clusters"
OWN_ADDRESS = "203.0.113.7/32"


def statements(policy: dict[str, Any], action: str) -> list[dict[str, Any]]:
    return [s for s in policy["Statement"] if action in s["Action"]]


def test_head_policy_terminates_only_instances_of_its_cluster() -> None:
    policy = head_policy(bucket="b", account="1", region=REGION, cluster="c", worker_role="w")
    for action in ("ec2:TerminateInstances", "ec2:StopInstances"):
        for statement in statements(policy, action):
            assert statement["Condition"]["StringEquals"]["aws:ResourceTag/ray-cluster-name"] == "c"
    assert [s["Resource"] for s in statements(policy, "iam:PassRole")] == ["arn:aws:iam::1:role/w"]


def test_policies_contain_no_wildcard_rights() -> None:
    head = head_policy(bucket="b", account="1", region=REGION, cluster="c", worker_role="w")
    for policy in (head, worker_policy("b")):
        for statement in policy["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not {"*", "ec2:*", "s3:*", "iam:*"} & set(actions)
            if statement["Resource"] == "*":
                assert all(action.startswith("ec2:Describe") for action in actions)


@pytest.fixture
def filled(tmp_path: Path) -> Path:
    """Path of an aws.yaml with a user's values; only the security group is still a placeholder."""
    text = (CLUSTERS / "aws.yaml").read_text()
    text = text.replace("CHANGE-ME-bucket", "my-bucket").replace(
        "~/.ssh/tkd-search.pem", str(tmp_path / "tkd-search.pem")
    )
    path = tmp_path / "aws.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("source", ["0.0.0.0/0", "1.2.3.4/0", "::/0"])
def test_a_source_that_is_too_wide_is_refused(filled: Path, source: str) -> None:
    with pytest.raises(UserError, match="your address range"):
        prepare(filled, source)


def test_a_file_with_placeholders_is_refused() -> None:
    with pytest.raises(UserError, match="change this line"):
        prepare(CLUSTERS / "aws.yaml", OWN_ADDRESS)


@pytest.mark.cluster
def test_prepare_creates_everything_and_can_be_repeated(aws: str, filled: Path) -> None:
    import boto3

    group = prepare(filled, OWN_ADDRESS)
    assert group in filled.read_text()
    assert prepare(filled, "198.51.100.9/32") == group, "a second call reuses the group"
    ec2, s3, iam = (boto3.client(name, region_name=REGION) for name in ("ec2", "s3", "iam"))
    rules = ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"]
    allowed = [r["CidrIp"] for rule in rules for r in rule.get("IpRanges", [])]
    assert allowed == ["198.51.100.9/32"], "the earlier address has no access any more"
    blocked = s3.get_public_access_block(Bucket="my-bucket")["PublicAccessBlockConfiguration"]
    assert all(blocked.values())
    assert s3.get_bucket_encryption(Bucket="my-bucket")["ServerSideEncryptionConfiguration"]["Rules"]
    for who in ("head", "worker"):
        profile = iam.get_instance_profile(InstanceProfileName=f"tkd-search-{who}")["InstanceProfile"]
        assert [role["RoleName"] for role in profile["Roles"]] == [f"tkd-search-{who}"]
        assert not iam.list_attached_role_policies(RoleName=f"tkd-search-{who}")["AttachedPolicies"]
    key = filled.parent / "tkd-search.pem"
    assert key.stat().st_mode & 0o077 == 0


@pytest.mark.cluster
def test_nodes_launch_with_all_protections_on_spot_and_on_demand(aws: str, filled: Path) -> None:
    import boto3

    ec2 = boto3.client("ec2", region_name=REGION)
    for pair in ec2.describe_key_pairs()["KeyPairs"]:
        ec2.delete_key_pair(KeyName=pair["KeyName"])
    group = prepare(filled, OWN_ADDRESS)
    groups_before = {g["GroupId"] for g in ec2.describe_security_groups()["SecurityGroups"]}
    config, provider = _bootstrapped(filled)
    launched = {name: _launch(provider, config, name) for name in ("head", "gpu-spot")}
    try:
        for name, machine in launched.items():
            assert machine["MetadataOptions"]["HttpTokens"] == "required", name
            assert [g["GroupId"] for g in machine["SecurityGroups"]] == [group]
            volumes = [disk["Ebs"]["VolumeId"] for disk in machine["BlockDeviceMappings"]]
            assert volumes
            assert all(v["Encrypted"] for v in ec2.describe_volumes(VolumeIds=volumes)["Volumes"])
        assert launched["gpu-spot"].get("InstanceLifecycle") == "spot"
        assert launched["gpu-spot"]["InstanceType"] == "g5.xlarge"
        assert "InstanceLifecycle" not in launched["head"]
        assert launched["head"]["IamInstanceProfile"]["Arn"].endswith("/tkd-search-head")
        groups = ec2.describe_security_groups()["SecurityGroups"]
        assert {g["GroupId"] for g in groups} == groups_before, "Ray created no group"
        _assert_no_public_rule([g for g in groups if g["GroupId"] == group])
        roles = {r["RoleName"] for r in boto3.client("iam").list_roles()["Roles"]}
        assert "ray-autoscaler-v1" not in roles, "Ray created no role"
    finally:
        for machine in launched.values():
            provider.terminate_node(machine["InstanceId"])
    states = [
        instance["State"]["Name"]
        for reservation in ec2.describe_instances()["Reservations"]
        for instance in reservation["Instances"]
    ]
    assert not {"running", "pending"} & set(states)


def _bootstrapped(path: Path) -> tuple[dict[str, Any], Any]:
    from ray.autoscaler._private.commands import _bootstrap_config
    from ray.autoscaler._private.providers import _get_node_provider
    from ray.autoscaler._private.util import validate_config

    config = _bootstrap_config(yaml.safe_load(path.read_text()), no_config_cache=True)
    validate_config({key: value for key, value in config.items() if key != "head_node"})
    assert config["available_node_types"]["gpu-spot"]["resources"]["GPU"] == 1, "read from EC2"
    return config, _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)


def _launch(provider: Any, config: dict[str, Any], name: str) -> dict[str, Any]:
    import boto3
    from ray.autoscaler import tags as t
    from ray.autoscaler._private.util import hash_launch_conf

    kind = "head" if name == "head" else "worker"
    node = {**config["head_node"], **config["available_node_types"][name]["node_config"]}
    tags = {
        t.TAG_RAY_NODE_KIND: kind,
        t.TAG_RAY_NODE_NAME: name,
        t.TAG_RAY_USER_NODE_TYPE: name,
        t.TAG_RAY_LAUNCH_CONFIG: hash_launch_conf(node, config["auth"]),
    }
    (node_id,) = provider.create_node(node, tags, 1)
    answer = boto3.client("ec2", region_name=REGION).describe_instances(InstanceIds=[node_id])
    return answer["Reservations"][0]["Instances"][0]


def _assert_no_public_rule(groups: list[dict[str, Any]]) -> None:
    text = json.dumps([group["IpPermissions"] for group in groups])
    assert "0.0.0.0/0" not in text
    assert "::/0" not in text

"""Cluster files as read, and the largest cluster each allows."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_search.cluster.cluster_file import read_cluster_file
from tkd_search.cluster.cluster_limits import launchable_nodes, max_cluster_nodes, node_hours
from tkd_search.cluster.idle_shutdown import IdleClock
from tkd_search.cluster.kubernetes_quantity import parse_quantity
from tkd_search.errors import UserError

CLUSTERS = Path(__file__).parents[2] / "clusters"


CLUSTER_OF_TWO_TYPES = """
cluster_name: c
max_workers: 3
provider: {type: aws, region: us-east-1}
head_node_type: head
available_node_types:
  head: {resources: {CPU: 2}, max_workers: 0}
  small: {resources: {CPU: 4, GPU: 1}, max_workers: 64}
  large: {resources: {CPU: 48, GPU: 4}, max_workers: 2}
"""


def test_nodes_of_the_largest_aws_cluster() -> None:
    assert max_cluster_nodes(CLUSTERS / "aws.yaml") == ({"CPU": 2}, *[{"CPU": 4, "GPU": 1}] * 4)


def test_nodes_of_the_largest_kuberay_cluster_come_from_the_pods() -> None:
    assert max_cluster_nodes(CLUSTERS / "kuberay.yaml") == ({"CPU": 2}, *[{"CPU": 4, "GPU": 1}] * 4)


def test_largest_nodes_come_first_within_both_limits(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER_OF_TWO_TYPES)
    large, small = {"CPU": 48, "GPU": 4}, {"CPU": 4, "GPU": 1}
    assert max_cluster_nodes(file) == ({"CPU": 2}, large, large, small)
    assert node_hours(file, 10) == "1 × head + 2 × large + 1 × small for 10.0 h"


def test_local_provider_needs_host_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (CLUSTERS / "onprem.yaml").read_text()
    with pytest.raises(UserError, match="host_resources"):
        max_cluster_nodes(CLUSTERS / "onprem.yaml")
    monkeypatch.setenv("TKD_CLUSTER_FILE", str(CLUSTERS / "onprem.yaml"))
    assert launchable_nodes() is None
    described = tmp_path / "mine.yaml"
    described.write_text(text.replace("# host_resources", "host_resources"))
    assert max_cluster_nodes(described) == ({"CPU": 16, "GPU": 1}, {"CPU": 16, "GPU": 1})
    monkeypatch.setenv("TKD_CLUSTER_FILE", str(described))
    assert launchable_nodes() == max_cluster_nodes(described)
    monkeypatch.delenv("TKD_CLUSTER_FILE")
    assert launchable_nodes() is None


@pytest.mark.parametrize(
    ("name", "hours", "text"),
    [
        ("aws.yaml", 2.34, "1 × m6i.xlarge + 4 × g5.xlarge (spot) for 2.3 h"),
        ("gcp.yaml", 0.05, "1 × e2-standard-4 + 4 × g2-standard-4 (spot) for 0.05 h"),
        ("kuberay.yaml", 2, "1 × head + 4 × gpu (spot) for 2.0 h"),
        ("onprem.yaml", 120, "1 × head + 1 × host for 120.0 h"),
    ],
)
def test_node_hours_name_instance_types_and_spot(name: str, hours: float, text: str) -> None:
    assert node_hours(CLUSTERS / name, hours) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0), ("2", 2), ("1.5", 1.5), (".5", 0.5), ("+2.", 2), ("1e3", 1000), ("1E-3", 1e-3),
        ("2e+1", 20), ("100n", 1e-7), ("10u", 1e-5), ("500m", 0.5), ("1.5k", 1500), ("2M", 2e6), ("3G", 3e9),
        ("4T", 4e12), ("5P", 5e15), ("6E", 6e18), ("1Ki", 2**10), ("1Mi", 2**20), ("16Gi", 2**34),
        ("1Ti", 2**40), ("1Pi", 2**50), ("1Ei", 2**60),
    ],
)  # fmt: skip
def test_quantity_with_every_kubernetes_suffix(text: str, value: float) -> None:
    assert parse_quantity(text, "memory") == value


@pytest.mark.parametrize("text", ["", "Gi", "2GiB", "x", "1K", "1ki", "1e", "1e3k", "-1", "1 Gi", "nan"])
def test_text_that_is_no_quantity_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="Gi") as caught:
        parse_quantity(text, "c.yaml: limits.memory")
    assert caught.value.where == "c.yaml: limits.memory"
    assert repr(text) in caught.value.found


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("nvidia.com/gpu: \"1\"", "nvidia.com/gpu: one",
         "workerGroupSpecs.0.template.spec.containers.0.resources.requests.nvidia.com/gpu"),
        ("num-cpus: \"2\"", "num-cpus: two", "headGroupSpec.rayStartParams.num-cpus"),
    ],
)  # fmt: skip
def test_wrong_amount_in_a_manifest_names_file_and_key(tmp_path: Path, old: str, new: str, key: str) -> None:
    file = tmp_path / "kuberay.yaml"
    file.write_text((CLUSTERS / "kuberay.yaml").read_text().replace(old, new))
    with pytest.raises(UserError) as caught:
        read_cluster_file(file)
    assert caught.value.where == f"{file}: spec.{key}"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("max_workers: 3", "max_workers: three", "max_workers"),
        ("max_workers: 64", "max_workers: many", "available_node_types.small.max_workers"),
        ("CPU: 48", "CPU: all", "available_node_types.large.resources.CPU"),
    ],
)
def test_wrong_number_in_an_autoscaler_file_names_file_and_key(
    tmp_path: Path, old: str, new: str, key: str
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(CLUSTER_OF_TWO_TYPES.replace(old, new))
    with pytest.raises(UserError, match="a number") as caught:
        read_cluster_file(file)
    assert caught.value.where == f"{file}: {key}"


def test_memory_in_pebibytes_does_not_stop_the_plan(tmp_path: Path) -> None:
    file = tmp_path / "kuberay.yaml"
    file.write_text((CLUSTERS / "kuberay.yaml").read_text().replace("memory: 16Gi", "memory: 1Pi"))
    assert max_cluster_nodes(file) == max_cluster_nodes(CLUSTERS / "kuberay.yaml")


def test_file_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_cluster_file(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1")
    with pytest.raises(UserError, match="invalid YAML"):
        read_cluster_file(bad)
    bad.write_text("a: 1")
    with pytest.raises(UserError, match="neither"):
        read_cluster_file(bad)


def test_fields_of_the_aws_file() -> None:
    file = read_cluster_file(CLUSTERS / "aws.yaml")
    assert (file.name, file.provider, file.region, file.ssh_user) == (
        "tkd-search", "aws", "us-east-1", "ubuntu",
    )  # fmt: skip
    assert file.storage.startswith("s3://")
    assert [w.spot for w in file.workers] == [True]
    assert not file.head.spot


@given(st.lists(st.tuples(st.floats(0.1, 600), st.booleans()), min_size=1), st.floats(0.5, 30))
def test_shutdown_is_due_only_after_an_uninterrupted_idle_time(
    steps: list[tuple[float, bool]], limit: float
) -> None:
    clock, now, last_busy = IdleClock(), 0.0, None
    for seconds, busy in steps:
        now += seconds
        clock = clock.observe(now, busy)
        last_busy = now if busy else last_busy
        if clock.due(now, limit):
            assert not busy
            assert now - (last_busy or 0.0) >= 60 * limit - 1e-6
    assert not clock.due(now + 1e9, 0), "a limit of 0 means never"

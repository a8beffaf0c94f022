"""What a cluster file may launch and what that costs: arithmetic on small files."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_search.cluster.cluster_file import NodeType, read_cluster_file
from tkd_search.cluster.cluster_limits import (
    ClusterLimits,
    launchable_nodes,
    max_cluster_nodes,
    max_cluster_resources,
)
from tkd_search.cluster.idle_shutdown import IdleClock
from tkd_search.cluster.instance_types import INSTANCES, PRICES_DATE
from tkd_search.cluster.kubernetes_quantity import parse_quantity
from tkd_search.cluster.prices import estimate_cost, price
from tkd_search.errors import UserError

CLUSTERS = Path(__file__).parents[2] / "clusters"


def node(name: str, count: int, **resources: float) -> NodeType:
    return NodeType(name=name, instance="", resources=resources, max_count=count, spot=False)


def test_aws_limits_count_the_head_and_the_workers() -> None:
    limits = max_cluster_resources(CLUSTERS / "aws.yaml")
    assert limits is not None
    assert limits.total("GPU") == 4
    assert limits.total("CPU") == 2 + 4 * 4
    assert limits.fits({"CPU": 1, "GPU": 1})
    assert not limits.fits({"GPU": 2}), "no single worker has two"
    assert limits.copies({"CPU": 1, "GPU": 0.25}) == 16
    assert "at most 4 workers" in limits.describe()


def test_kuberay_limits_come_from_the_pods() -> None:
    limits = max_cluster_resources(CLUSTERS / "kuberay.yaml")
    assert limits is not None
    assert limits.total("GPU") == 4
    assert limits.copies({"CPU": 4}) == 4, "the head offers only two CPUs"


def test_hosts_of_ones_own_have_to_be_asked_or_described(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (CLUSTERS / "onprem.yaml").read_text()
    assert max_cluster_resources(CLUSTERS / "onprem.yaml") is None
    with pytest.raises(UserError, match="host_resources"):
        max_cluster_nodes(CLUSTERS / "onprem.yaml")
    described = tmp_path / "mine.yaml"
    described.write_text(text.replace("# host_resources", "host_resources"))
    assert max_cluster_nodes(described) == ({"CPU": 16, "GPU": 1}, {"CPU": 16, "GPU": 1})
    monkeypatch.setenv("TKD_CLUSTER_FILE", str(described))
    assert launchable_nodes() == max_cluster_nodes(described)
    monkeypatch.delenv("TKD_CLUSTER_FILE")
    assert launchable_nodes() is None


def test_nodes_of_the_largest_cluster() -> None:
    nodes = max_cluster_nodes(CLUSTERS / "aws.yaml")
    assert nodes == ({"CPU": 2}, *[{"CPU": 4, "GPU": 1}] * 4)


@given(
    counts=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8)), max_size=4),
    cap=st.integers(0, 10),
)
def test_totals_never_exceed_the_cap_and_copies_never_exceed_totals(
    counts: list[tuple[int, int]], cap: int
) -> None:
    workers = tuple(node(f"w{i}", count, CPU=float(cpus)) for i, (count, cpus) in enumerate(counts))
    limits = ClusterLimits(node("head", 1, CPU=2.0), workers, cap)
    largest = max((float(cpus) for _, cpus in counts), default=0.0)
    assert 2 <= limits.total("CPU") <= 2 + cap * largest
    assert limits.copies({"CPU": 1}) == limits.total("CPU")
    assert limits.copies({"CPU": 2}) <= limits.total("CPU") / 2
    assert limits.copies({"CPU": 1, "GPU": 1}) == 0


def test_a_bundle_that_asks_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="asks nothing"):
        ClusterLimits(node("head", 1, CPU=2.0), (), 0).copies({"CPU": 0})


def test_cost_is_head_plus_spot_workers() -> None:
    estimate = price(CLUSTERS / "aws.yaml", hours=2, workers=3)
    assert estimate is not None
    expected = INSTANCES["m6i.xlarge"].on_demand + 3 * INSTANCES["g5.xlarge"].spot
    assert estimate.usd_per_hour == pytest.approx(expected)
    assert estimate.usd == pytest.approx(2 * expected)
    assert estimate.date == PRICES_DATE
    assert "spot" in estimate.lines[1]


def test_cost_counts_no_more_workers_than_the_file_allows() -> None:
    most = price(CLUSTERS / "aws.yaml", hours=1, workers=1000)
    assert most is not None
    assert most.workers == 4


def test_machines_without_a_price_have_no_estimate() -> None:
    assert price(CLUSTERS / "onprem.yaml", hours=1) is None
    assert "unknown" in estimate_cost(CLUSTERS / "onprem.yaml", hours=1)[-1]
    assert price(CLUSTERS / "kuberay.yaml", hours=1) is None


@pytest.mark.parametrize("name", ["aws.yaml", "gcp.yaml"])
def test_the_table_knows_the_machines_of_the_examples(name: str) -> None:
    assert price(CLUSTERS / name, hours=1) is not None
    assert PRICES_DATE in estimate_cost(CLUSTERS / name, hours=1)[-1]


def test_spot_is_cheaper() -> None:
    assert all(entry.spot < entry.on_demand for entry in INSTANCES.values())


@pytest.mark.parametrize(
    ("text", "value"), [("500m", 0.5), ("2", 2), ("16Gi", 16 * 2**30), ("1.5k", 1500), ("0", 0)]
)
def test_quantities(text: str, value: float) -> None:
    assert parse_quantity(text) == value


@pytest.mark.parametrize("text", ["", "Gi", "2GiB", "x"])
def test_no_quantities(text: str) -> None:
    with pytest.raises(ValueError, match=r"quantity|convert"):
        parse_quantity(text)


def test_file_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_cluster_file(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [1")
    with pytest.raises(UserError, match="no YAML"):
        read_cluster_file(bad)
    bad.write_text("a: 1")
    with pytest.raises(UserError, match="neither"):
        read_cluster_file(bad)


def test_what_is_read_of_a_file() -> None:
    file = read_cluster_file(CLUSTERS / "aws.yaml")
    assert (file.name, file.provider, file.region, file.ssh_user) == (
        "tkd-search", "aws", "us-east-1", "ubuntu",
    )  # fmt: skip
    assert file.storage.startswith("s3://")
    assert [w.spot for w in file.workers] == [True]
    assert not file.head.spot


@given(st.lists(st.tuples(st.floats(0.1, 600), st.booleans()), min_size=1), st.floats(0.5, 30))
def test_a_machine_goes_off_only_after_an_unbroken_idle_time(
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

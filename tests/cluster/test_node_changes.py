"""Preempted, lost and added nodes, on a Ray cluster of several nodes on this machine."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(550)]

TOY = "benchmarks.toy_job:run_toy_job"


def wait_until(condition: Callable[[], Any], what: str, seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.2)
    return found


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Any]:
    """A head without CPUs for trials; each test adds its nodes."""
    from tkd_search.engine.ray_session import quiet_environment

    quiet_environment()
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield cluster
    cluster.shutdown()


@pytest.fixture
def driver(cluster: Any) -> Iterator[None]:
    import ray

    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def drain(node_id: str, seconds: float) -> None:
    """Drain a node as the node agent does after a cloud's notice."""
    from tkd_search.cluster.node_agent import command_lines
    from tkd_search.cluster.spot_notice import drain_command

    commands = [drain_command(words, seconds, "aws") for words in command_lines("raylet")]
    (command,) = [found for found in commands if found and node_id in found]
    subprocess.run(command, check=True, env=environment())


class Tuning:
    """A pool and one trial on it, run step by step as Tune does."""

    def __init__(self, folder: Path, slots: int, limit: int) -> None:
        from tkd_search.config.search_settings import ResourceSettings
        from tkd_search.engine.workers.pool import open_pool

        self._opened = open_pool(ResourceSettings(), slots, folder / "train", limit=limit, runner=TOY)
        self.folder = folder

    def __enter__(self) -> "Tuning":
        self.queue, self.pool = self._opened.__enter__()
        self.pool.wait(120)
        return self

    def __exit__(self, *error: Any) -> None:
        self._opened.__exit__(*error)

    def up(self) -> dict[str, str]:
        """Return slot → node of the worker groups that run and are not retiring."""
        import ray

        overview = ray.get(self.queue.overview.remote())
        return {name: slot.nodes[0] for name, slot in overview.items() if slot.up and not slot.retiring}

    def node_of_trial(self) -> str:
        import ray

        overview = ray.get(self.queue.overview.remote())
        return next((slot.nodes[0] for slot in overview.values() if slot.busy), "")

    def trial(self, seconds: float, epochs: int) -> Any:
        from tkd_search.engine.tune.trainable import WorkerGroupTrainable

        queue, folder = self.queue, str(self.folder)

        class Trial(WorkerGroupTrainable):
            def setup(self, config: dict[str, Any], **_: Any) -> None:
                super().setup(config, queue=queue, common={"epochs": epochs, "kind": "trial"})

        return Trial({"trial_id": "t0000", "point": {"seconds": seconds}, "after_epoch": 0, "folder": folder})


@pytest.mark.exhaustive
def test_trial_moves_away_from_a_draining_node(cluster: Any, driver: None, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    with Tuning(tmp_path, slots=2, limit=2) as tuning:
        wait_until(lambda: len(tuning.up()) == 2, "two groups")
        trial = tuning.trial(seconds=12, epochs=6)
        assert trial.train()["epoch"] == 1
        first = tuning.node_of_trial()
        drain(first, seconds=60)
        seen = [1]
        while seen[-1] < 6:
            result = trial.train()
            assert not result["failed"]
            seen.append(result["epoch"])
        assert seen == [1, 2, 3, 4, 5, 6], "each epoch once"
        assert result["done"]
        wait_until(
            lambda: set(tuning.up().values()) == {n.node_id for n in nodes} - {first}, "the slot's end"
        )
        assert tuning.pool.failures == []


def test_trial_survives_a_lost_node_and_an_added_node_is_used(
    cluster: Any, driver: None, tmp_path: Path
) -> None:
    node = cluster.add_node(num_cpus=1)
    with Tuning(tmp_path, slots=1, limit=2) as tuning:
        trial = tuning.trial(seconds=40, epochs=4)
        assert trial.train()["epoch"] == 1
        assert tuning.node_of_trial() == node.node_id
        other = cluster.add_node(num_cpus=1)
        wait_until(lambda: other.node_id in tuning.up().values(), "a slot on the added node")
        assert tuning.pool.room() >= 1
        cluster.remove_node(node, allow_graceful=False)
        results = [trial.train() for _ in range(3)]
        assert [result["epoch"] for result in results] == [2, 3, 4]
        assert not any(result["failed"] for result in results)
        wait_until(lambda: set(tuning.up().values()) == {other.node_id}, "the lost node's slot to end")
        wait_until(lambda: tuning.pool.room() == 1, "room for one slot")


_OTHER_SEARCH = """
import sys, time
from pathlib import Path
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
from tkd_search.engine.workers.pool import open_pool
from tkd_search.config.search_settings import ResourceSettings
toy = "benchmarks.toy_job:run_toy_job"
with open_pool(ResourceSettings(), 2, Path(sys.argv[2]), runner=toy) as (_, pool):
    pool.wait(200)
    print("up", pool.attached(), flush=True)
    sys.stdin.readline()
"""


@pytest.mark.exhaustive
def test_slot_is_yielded_to_another_search_and_taken_back(cluster: Any, driver: None, tmp_path: Path) -> None:
    cluster.add_node(num_cpus=2)
    with Tuning(tmp_path, slots=2, limit=2) as tuning:
        wait_until(lambda: len(tuning.up()) == 2, "two groups")
        trial = tuning.trial(seconds=4, epochs=2)
        trial.train()
        other = subprocess.Popen(
            [sys.executable, "-c", _OTHER_SEARCH, cluster.address, str(tmp_path / "other")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
        )  # fmt: skip
        try:
            assert other.stdout is not None
            assert trial.train()["done"]
            assert other.stdout.readline().strip() == "up 1", "one slot each"
            assert len(tuning.up()) == 1
            other.communicate("end\n", timeout=60)
            wait_until(lambda: len(tuning.up()) == 2, "the slot to be taken back")
        finally:
            other.kill()


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "120"}


SMALL = {
    "search.trials": 4, "search.startup_trials": 2, "search.pruner": "never", "search.pruner_args": "{}",
    "training.epochs": 6, "training.batch_size": 256, "student.width": "{float: [0.1, 0.2]}",
    "big_model.epochs": 2, "data.views": 16, "tracking.uri": "none", "resources.max_concurrent": 2,
}  # fmt: skip


def test_search_with_a_preempted_node_has_no_failed_trial(cluster: Any, tmp_path: Path) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    settings = [f"--set={key}={value}" for key, value in {**SMALL, "storage": tmp_path / "shared"}.items()]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(
            [sys.executable, "-m", "tkd_search.run", "--name=spot", "--address", cluster.address, *settings],
            cwd=tmp_path, env={**environment(), "TKD_CACHE": str(tmp_path / "cache")}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        event_log = tmp_path / "runs" / "spot" / "events" / "events.jsonl"
        wait_until(
            lambda: run.poll() is not None
            or (event_log.exists() and event_log.read_text().count('"epoch"') > 4),
            "a few epochs", 400,
        )  # fmt: skip
        assert run.poll() is None, (tmp_path / "log").read_text()
        drain(nodes[0].node_id, seconds=30)
        time.sleep(20)  # the time between a cloud's notice and the end of the machine
        cluster.remove_node(nodes[0], allow_graceful=False)
        assert run.wait(timeout=400) == 0, (tmp_path / "log").read_text()
    finally:
        if run.poll() is None:
            run.kill()
    output = (tmp_path / "log").read_text()
    assert "Traceback" not in output
    summary = json.loads((tmp_path / "runs" / "spot" / "summary.json").read_text())
    assert summary["trials"] == {"total": 4, "completed": 4, "stopped_early": 0, "failed": 0}
    assert summary["epochs"]["spent"] == 4 * 6, "no epoch is counted twice"
    cache = [place.name for place in (tmp_path / "shared" / "cache").glob("bank-*")]
    assert len(cache) == 1, f"one bank, assembled from the parts of both nodes: {cache}"

"""Warm worker groups on a real Ray: jobs one after the other, failures, superseded jobs, lost processes."""

import os
import signal
import time

import pytest

from tkd_search.config.search_settings import ResourceSettings
from tkd_search.engine.workers.worker_loop import FAILURES

TOY = "benchmarks.toy_job:run_toy_job"


def toy_job(seconds: float = 0.05, epochs: int = 2, **point: object) -> dict[str, object]:
    return {"kind": "trial", "epochs": epochs, "after_epoch": 0, "point": {"seconds": seconds, **point}}


def results(client, deadline: float = 60.0) -> list[dict]:
    """All results of the posted job up to its end."""
    seen, end = [], time.monotonic() + deadline
    while time.monotonic() < end:
        result = client.pull(1.0)
        if result is not None:
            seen.append(result)
            if result["kind"] in ("done", "failed", "broken"):
                return seen
    raise AssertionError(f"no end after {seen}")


@pytest.fixture(scope="module")
def pool(local_ray, tmp_path_factory):
    from tkd_search.engine.workers.pool import WarmPool
    from tkd_search.engine.workers.queue_actor import QueueActor

    queue = QueueActor.remote(5.0)
    pool = WarmPool(queue, ResourceSettings(), 1, tmp_path_factory.mktemp("train"), runner=TOY)
    pool.wait(120)
    yield queue, pool
    pool.close()


@pytest.fixture
def client(pool):
    from tkd_search.engine.workers.queue_actor import SlotClient

    client = SlotClient(pool[0], holder="test", timeout=60)
    yield client
    client.release()


def test_jobs_run_one_after_the_other_in_one_process(pool, client):
    import ray

    before = ray.get(pool[0].overview.remote())["slot0"]["attached"]
    for _ in range(3):
        client.post(toy_job())
        assert [r["kind"] for r in results(client)] == ["epoch", "epoch", "done"]
    assert ray.get(pool[0].overview.remote())["slot0"]["attached"] == before


def test_a_failing_job_is_reported_and_the_group_serves_on(client):
    client.post(toy_job(fail=True))
    (failure,) = results(client)
    assert (failure["kind"], failure["reason"]) == ("failed", "ValueError: this configuration fails")
    client.post(toy_job(full=True))
    (failure,) = results(client)
    assert (failure["kind"], failure["reason"]) == ("broken", "OSError: [Errno 28] No space left on device")
    client.post(toy_job())
    assert results(client)[-1]["kind"] == "done"


def test_a_superseded_job_makes_way_long_before_its_end(client):
    client.post(toy_job(seconds=120, epochs=20))  # 0.6 s a batch
    time.sleep(0.5)
    client.post(toy_job())
    assert results(client, deadline=30)[-1]["kind"] == "done"


@pytest.mark.faults
def test_a_killed_worker_comes_back_and_finishes_the_job(pool, client):
    import ray

    client.post(toy_job(seconds=2.0, epochs=4))
    assert client.pull(30)["epoch"] == 1
    os.kill(ray.get(pool[0].overview.remote())["slot0"]["info"]["pid"], signal.SIGKILL)
    assert results(client, deadline=120)[-1]["kind"] == "done"
    assert pool[1].failures == []


@pytest.mark.faults
def test_a_process_in_which_every_job_fails_is_replaced(pool, client):
    import ray

    def process() -> int:
        return ray.get(pool[0].overview.remote())["slot0"]["info"]["pid"]

    client.post(toy_job())
    results(client)
    before = process()
    for _ in range(FAILURES):
        assert process() == before
        client.post(toy_job(fail=True))
        assert results(client)[-1]["kind"] == "failed"
    client.post(toy_job())
    assert results(client, deadline=120)[-1]["kind"] == "done"
    assert process() != before
    assert pool[1].failures == []


@pytest.mark.faults
def test_a_stage_that_kills_its_worker_every_time_ends_with_a_message(pool):
    from tkd_search.engine.pipeline import run_stage
    from tkd_search.errors import UserError

    with pytest.raises(UserError, match="died 3 times in a row"):
        list(run_stage(pool[0], toy_job(kill=True)))
    assert [result["kind"] for result in run_stage(pool[0], toy_job())] == ["epoch", "epoch", "done"]
    assert pool[1].failures == []


@pytest.mark.faults
@pytest.mark.exhaustive  # a group of two that starts twice takes minutes
@pytest.mark.timeout(600)
def test_a_trial_outlives_the_death_of_its_other_rank(local_ray, tmp_path):
    from tkd_search.engine.workers.pool import WarmPool
    from tkd_search.engine.workers.queue_actor import QueueActor, SlotClient

    queue = QueueActor.remote(5.0)
    pool = WarmPool(queue, ResourceSettings(workers_per_trial=2), 1, tmp_path / "train", runner=TOY)
    pool.wait(120)
    client = SlotClient(queue, holder="test", timeout=60)
    try:
        client.post(toy_job(seconds=1.0, lose_rank_1=str(tmp_path / "lost")))
        assert [r["kind"] for r in results(client, deadline=180)] == ["epoch", "epoch", "done"]
        assert (tmp_path / "lost").exists()
        client.post(toy_job(fail=True))
        assert results(client)[0]["reason"] == "ValueError: this configuration fails"
    finally:
        client.release()
        pool.close()


@pytest.mark.faults
def test_a_killed_broker_costs_the_lease_and_nothing_else(pool):
    import ray

    from tkd_search.engine.workers.job_queue import LeaseLostError
    from tkd_search.engine.workers.queue_actor import SlotClient

    before = SlotClient(pool[0], holder="before", timeout=60)
    before.post(toy_job(seconds=60))
    ray.kill(pool[0], no_restart=False)
    with pytest.raises(LeaseLostError):
        results(before)
    after = SlotClient(pool[0], holder="after", timeout=60)
    after.post(toy_job())
    assert results(after)[-1]["kind"] == "done"
    after.release()


def test_a_group_that_never_fits_does_not_outlive_its_pool(pool, tmp_path):
    # The last one here: it ends all Train runs of this driver, the shared pool's too.
    import ray

    from tkd_search.engine.workers.pool import WarmPool
    from tkd_search.engine.workers.queue_actor import QueueActor

    queue = QueueActor.remote(5.0)
    waiting = WarmPool(queue, ResourceSettings(cpus_per_worker=500), 2, tmp_path, runner=TOY)
    threads = [group.thread for group in waiting._groups.values()]
    assert waiting.attached() == waiting.room() == 0
    time.sleep(5)
    assert all(thread.is_alive() for thread in threads)
    waiting.close()
    assert not any(thread.is_alive() for thread in threads)
    ray.kill(queue)

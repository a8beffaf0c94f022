"""Warm worker groups on a real Ray: jobs one after the other, failures, superseded jobs, dead processes."""

import os
import signal
import time

import psutil
import pytest

from tkd_search.config.search_settings import ResourceSettings
from tkd_search.engine.workers.worker_loop import MAX_FAILURES

TOY = "benchmarks.toy_job:run_toy_job"


def toy_job(seconds: float = 0.05, epochs: int = 2, **point: object) -> dict[str, object]:
    return {"kind": "trial", "epochs": epochs, "after_epoch": 0, "point": {"seconds": seconds, **point}}


def results(client, deadline: float = 60.0) -> list[dict]:
    """Pull all results of the posted job."""
    seen, end = [], time.monotonic() + deadline
    while time.monotonic() < end:
        result = client.pull(1.0)
        if result is not None:
            seen.append(result)
            if result["kind"] in ("done", "failed", "broken"):
                return seen
    raise AssertionError(f"no end after {seen}")


def slot_state(pool):
    """The state of the pool's only slot."""
    import ray

    return ray.get(pool[0].overview.remote())["slot0"]


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
    from tkd_search.engine.workers.queue_clients import LeaseClient

    client = LeaseClient(pool[0], holder="test", timeout=60)
    yield client
    client.release()


def test_jobs_run_one_after_the_other_in_one_process(pool, client):
    before = slot_state(pool).pid
    for _ in range(3):
        client.post(toy_job())
        assert [r["kind"] for r in results(client)] == ["epoch", "epoch", "done"]
    assert slot_state(pool).pid == before


def test_a_failing_job_is_reported_and_the_group_runs_the_next(client):
    client.post(toy_job(fail=True))
    (failure,) = results(client)
    assert (failure["kind"], failure["reason"]) == ("failed", "ValueError: this configuration fails")
    client.post(toy_job(full=True))
    (failure,) = results(client)
    assert (failure["kind"], failure["reason"]) == ("broken", "OSError: [Errno 28] No space left on device")
    client.post(toy_job(memory=True))
    (failure,) = results(client)
    assert failure["kind"] == "failed"
    assert failure["reason"].startswith("out of memory; a smaller batch or model")
    client.post(toy_job())
    assert results(client)[-1]["kind"] == "done"


def test_a_superseded_job_stops_between_two_batches(client):
    client.post(toy_job(seconds=120, epochs=20))  # 0.6 s a batch
    time.sleep(0.5)
    client.post(toy_job())
    assert results(client, deadline=30)[-1]["kind"] == "done"


def test_heartbeats_come_within_an_epoch(pool, client):
    client.post(toy_job(seconds=120, epochs=1))
    heartbeats, last, deadline = 0, 0.0, time.monotonic() + 120
    while heartbeats < 3:  # the first may be the job's start
        silence = slot_state(pool).silence
        assert time.monotonic() < deadline, f"no heartbeat for {silence:.0f} s"
        heartbeats += silence < last
        last = silence
        assert client.pull(0.5) is None


@pytest.mark.faults
def test_a_job_that_hangs_is_reported_and_its_process_is_replaced(pool):
    from tkd_search.engine.workers.queue_clients import LeaseClient
    from tkd_search.engine.workers.slot import StalledError

    before = slot_state(pool).pid
    stalled = LeaseClient(pool[0], holder="hangs", timeout=60, silence_limit=2.0)
    stalled.post(toy_job(hang=True))
    with pytest.raises(StalledError, match="slot0 made no progress for more than 2 s"):
        results(stalled)
    client = LeaseClient(pool[0], holder="next", timeout=120)
    client.post(toy_job())
    assert results(client)[-1]["kind"] == "done"
    client.release()
    assert slot_state(pool).pid != before
    assert pool[1].failures == []


@pytest.mark.faults
def test_a_killed_worker_restarts_and_finishes_the_job(pool, client):
    client.post(toy_job(seconds=2.0, epochs=4))
    assert client.pull(30)["epoch"] == 1
    os.kill(slot_state(pool).pid, signal.SIGKILL)
    assert results(client, deadline=120)[-1]["kind"] == "done"
    assert pool[1].failures == []


@pytest.mark.faults
def test_a_process_in_which_every_job_fails_is_replaced(pool, client):
    client.post(toy_job())
    results(client)
    before = slot_state(pool).pid
    for _ in range(MAX_FAILURES):
        assert slot_state(pool).pid == before
        client.post(toy_job(fail=True))
        assert results(client)[-1]["kind"] == "failed"
    client.post(toy_job())
    assert results(client, deadline=120)[-1]["kind"] == "done"
    assert slot_state(pool).pid != before
    assert pool[1].failures == []


@pytest.mark.faults
def test_a_stage_that_kills_its_worker_every_time_ends_with_a_message(pool):
    from tkd_search.engine.pipeline import run_stage
    from tkd_search.errors import UserError

    with pytest.raises(UserError, match=r"died 3 times in a row \(out of memory"):
        list(run_stage(pool[0], toy_job(kill=True)))
    assert [result["kind"] for result in run_stage(pool[0], toy_job())] == ["epoch", "epoch", "done"]
    assert pool[1].failures == []


@pytest.mark.faults
@pytest.mark.exhaustive  # a group of two that starts twice takes minutes
@pytest.mark.timeout(600)
def test_a_job_continues_after_the_death_of_its_other_rank(local_ray, tmp_path):
    from tkd_search.engine.workers.pool import WarmPool
    from tkd_search.engine.workers.queue_actor import QueueActor
    from tkd_search.engine.workers.queue_clients import LeaseClient

    queue = QueueActor.remote(5.0)
    pool = WarmPool(queue, ResourceSettings(workers_per_trial=2), 1, tmp_path / "train", runner=TOY)
    pool.wait(120)
    client = LeaseClient(queue, holder="test", timeout=60)
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
def test_a_killed_queue_actor_ends_the_leases_and_nothing_else(pool):
    import ray

    from tkd_search.engine.workers.queue_clients import LeaseClient
    from tkd_search.engine.workers.slot import LeaseLostError

    before = LeaseClient(pool[0], holder="before", timeout=60)
    before.post(toy_job(seconds=60))
    ray.kill(pool[0], no_restart=False)
    with pytest.raises(LeaseLostError):
        results(before)
    after = LeaseClient(pool[0], holder="after", timeout=60)
    after.post(toy_job())
    assert results(after)[-1]["kind"] == "done"
    after.release()


def controllers() -> set[psutil.Process]:
    """The processes of all Ray Train controllers on this machine."""
    running = psutil.process_iter(["cmdline"])
    return {one for one in running if "ray::TrainController" in " ".join(one.info["cmdline"] or ())}


@pytest.mark.faults
def test_a_killed_train_controller_is_replaced_and_its_resources_are_free(local_ray, tmp_path):
    import ray
    from ray.util import placement_group_table

    from tkd_search.engine.workers.pool import WarmPool
    from tkd_search.engine.workers.queue_actor import QueueActor

    def held():
        return [one["state"] for one in placement_group_table().values()].count("CREATED")

    queue, others = QueueActor.remote(5.0), controllers()
    pool = WarmPool(queue, ResourceSettings(), 1, tmp_path, runner=TOY)
    try:
        pool.wait(120)
        groups = held()
        for process in controllers() - others:
            process.kill()
        end = time.monotonic() + 120
        while ray.get(queue.overview.remote()).keys() != {"slot1"} or held() != groups:
            assert time.monotonic() < end, (pool.failures, held(), groups)
            time.sleep(0.1)
    finally:
        pool.close()


def test_a_group_that_never_fits_does_not_outlive_its_pool(pool, tmp_path):
    # The last test of this file: it ends all Train runs of this driver, also those of the shared pool.
    import ray

    from tkd_search.engine.workers.pool import WarmPool
    from tkd_search.engine.workers.queue_actor import QueueActor

    queue = QueueActor.remote(5.0)
    waiting = WarmPool(queue, ResourceSettings(cpus_per_worker=500), 2, tmp_path, runner=TOY)
    threads = [run.thread for run in waiting._runs.values()]
    assert waiting.attached() == waiting.room() == 0
    time.sleep(5)
    assert all(thread.is_alive() for thread in threads)
    waiting.close()
    assert not any(thread.is_alive() for thread in threads)
    ray.kill(queue)

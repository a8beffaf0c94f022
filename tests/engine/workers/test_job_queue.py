"""Leases, fencing, heartbeats and back-pressure of the job queue, without Ray and in virtual time."""

from typing import Any

import pytest

from tkd_search.engine.workers.job_queue import JOB_ATTEMPTS, JobQueue
from tkd_search.engine.workers.slot import (
    GroupId,
    Lease,
    LeaseLostError,
    SlotState,
    StalledError,
    WorkerGroup,
)


class Clock:
    """Virtual time in seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def group(slot: str = "a", start: int = 1) -> WorkerGroup:
    """The slot's group after so many starts."""
    return WorkerGroup(GroupId(slot, str(start)), pid=start, nodes=(f"node of {slot}",))


A = group().id


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> JobQueue:
    """A queue with one slot, whose group is up."""
    queue = JobQueue(clock=clock, time_to_live=10, max_unread=2)
    queue.attach(group())
    return queue


def lease(queue: JobQueue, holder: str = "one") -> Lease:
    found = queue.lease(holder)
    assert found is not None
    return found


def taken(queue: JobQueue, group_id: GroupId, after: int = -1) -> tuple[int, dict[str, Any]]:
    found = queue.take(group_id, after)
    assert found is not None
    return found


def kinds(queue: JobQueue, held: Lease, job_id: int) -> list[str]:
    """Pull all results and return their kinds."""
    found = []
    while (result := queue.pull(held, job_id)) is not None:
        found.append(result["kind"])
    return found


# leases ---------------------------------------------------------------------------------------------


def test_a_slot_has_one_holder_at_a_time(queue: JobQueue) -> None:
    first = lease(queue)
    assert queue.lease("two") is None
    queue.release(first)
    assert queue.lease("two") is not None


def test_a_lease_that_is_not_renewed_ends_and_cannot_disturb_the_next(queue: JobQueue, clock: Clock) -> None:
    expired = lease(queue)
    queue.post(expired, {"n": 1})
    clock.now = 10.5
    successor = lease(queue, "successor")
    job_id = queue.post(successor, {"n": 2})
    assert not queue.renew(expired)
    with pytest.raises(LeaseLostError):
        queue.post(expired, {"n": 3})
    queue.release(expired)
    assert taken(queue, A) == (job_id, {"n": 2})


def test_a_renewed_lease_is_kept(queue: JobQueue, clock: Clock) -> None:
    held = lease(queue)
    for clock.now in (5.0, 14.0, 23.0):
        assert queue.renew(held)
    clock.now = 25.0
    assert queue.lease("two") is None


def test_the_overview_shows_group_holder_and_work(queue: JobQueue, clock: Clock) -> None:
    idle = SlotState(nodes=("node of a",), pid=1, up=True)
    assert queue.overview() == {"a": idle}
    queue.post(lease(queue), {})
    queue.attach(group(start=2))
    queue.retire("a")
    clock.now = 3.0
    busy = SlotState(
        nodes=("node of a",), pid=2, up=True, retiring=True, holder="one", busy=True, silence=3.0
    )
    assert queue.overview() == {"a": busy}


# jobs and results -----------------------------------------------------------------------------------


def test_results_are_pulled_in_order_and_once(queue: JobQueue) -> None:
    held = lease(queue)
    job_id = queue.post(held, {"kind": "trial"})
    assert queue.take(A, after=-1) == (job_id, {"kind": "trial"})
    assert queue.take(A, after=job_id) is None
    assert [queue.push(A, job_id, {"epoch": i}) for i in (1, 2)] == ["accepted"] * 2
    assert [queue.pull(held, job_id) for _ in range(3)] == [{"epoch": 1}, {"epoch": 2}, None]


def test_a_group_waits_while_results_are_unread(queue: JobQueue) -> None:
    held = lease(queue)
    job_id = queue.post(held, {})
    answers = [queue.push(A, job_id, {"epoch": i}) for i in (1, 2, 3)]
    assert answers == ["accepted", "accepted", "full"]
    queue.pull(held, job_id)
    assert queue.push(A, job_id, {"epoch": 3}) == "accepted"


def test_a_new_job_supersedes_the_earlier_one_at_once(queue: JobQueue) -> None:
    held = lease(queue)
    old = queue.post(held, {"n": 1})
    new = queue.post(held, {"n": 2})
    assert queue.push(A, old, {"epoch": 1}) == "superseded"
    assert queue.superseded(A, old)
    assert not queue.start(A, old)
    assert queue.take(A, after=old) == (new, {"n": 2})
    with pytest.raises(LeaseLostError):
        queue.pull(held, old)


@pytest.mark.parametrize("ending", ["done", "failed", "broken"])
def test_a_job_that_has_ended_is_not_run_again(queue: JobQueue, ending: str) -> None:
    held = lease(queue)
    job_id = queue.post(held, {})
    queue.take(A, after=-1)
    queue.push(A, job_id, {"kind": ending})
    queue.attach(group(start=2))
    assert queue.take(group(start=2).id, after=-1) is None
    assert kinds(queue, held, job_id) == [ending]


# a restarted queue actor ----------------------------------------------------------------------------


def test_leases_and_jobs_of_an_earlier_actor_are_refused() -> None:
    before, after = JobQueue(generation=1), JobQueue(generation=2)
    before.attach(group())
    held = lease(before)
    job_id = before.post(held, {})
    after.attach_unknown(group())
    assert after.take(A, after=job_id) is None
    assert after.push(A, job_id, {}) == "superseded"
    assert not after.renew(held)
    assert after.post(lease(after), {}) != job_id


def test_a_known_slot_keeps_its_group(queue: JobQueue) -> None:
    queue.attach(group(start=2))
    queue.attach_unknown(group(start=1))
    assert queue.overview()["a"].pid == 2


# requests of a dead group ---------------------------------------------------------------------------


def test_a_request_of_an_earlier_group_takes_no_job(queue: JobQueue) -> None:
    held = lease(queue)
    job_id = queue.post(held, {"n": 1})
    restarted = group(start=2)
    queue.attach(restarted)
    assert taken(queue, A)[1] == {"kind": "exit"}
    assert queue.push(A, job_id, {"kind": "done"}) == "superseded"
    assert queue.superseded(A, job_id)
    assert kinds(queue, held, job_id) == []
    assert taken(queue, restarted.id) == (job_id, {"n": 1})


def test_a_job_taken_by_a_group_that_was_dead_already_costs_no_attempt(queue: JobQueue) -> None:
    job_id = queue.post(lease(queue), {})
    taken(queue, A)  # answered before the restart, and never read
    assert deaths_survived(queue, job_id) == JOB_ATTEMPTS


def test_a_request_that_waits_while_its_slot_is_removed_does_not_create_it_again(queue: JobQueue) -> None:
    queue.remove("a")
    assert taken(queue, A)[1] == {"kind": "exit"}
    assert queue.overview() == {}


# heartbeats -----------------------------------------------------------------------------------------

LIMIT = 100.0


def test_an_epoch_may_take_longer_than_the_limit_while_heartbeats_come(queue: JobQueue, clock: Clock) -> None:
    held = lease(queue)
    job_id = queue.post(held, {})
    for clock.now in range(0, 1000, 90):
        queue.renew(held)
        queue.heartbeat(A, job_id)
    assert queue.pull(held, job_id, LIMIT) is None
    queue.push(A, job_id, {"kind": "epoch", "epoch": 1})
    assert queue.pull(held, job_id, LIMIT) == {"kind": "epoch", "epoch": 1}


@pytest.mark.parametrize("sign", ["post", "attach", "start", "push", "heartbeat"])
def test_every_sign_of_progress_begins_the_silence_anew(queue: JobQueue, clock: Clock, sign: str) -> None:
    held = lease(queue)
    job_id = queue.post(held, {})
    clock.now = 90.0
    queue.renew(held)
    if sign == "post":
        job_id = queue.post(held, {})
    elif sign == "attach":
        queue.attach(group())
    elif sign == "start":
        queue.start(A, job_id)
    elif sign == "push":
        queue.push(A, job_id, {"kind": "epoch"})
        queue.pull(held, job_id, LIMIT)
    else:
        queue.heartbeat(A, job_id)
    clock.now = 90.0 + LIMIT
    queue.renew(held)
    assert queue.pull(held, job_id, LIMIT) is None


def test_a_job_without_heartbeats_is_stalled_and_its_slot_waits_for_a_restart(
    queue: JobQueue, clock: Clock
) -> None:
    held = lease(queue)
    job_id = queue.post(held, {})
    clock.now = LIMIT + 1
    queue.renew(held)
    assert queue.pull(held, job_id) is None, "no limit by default"
    with pytest.raises(StalledError, match="more than 100 s") as stalled:
        queue.pull(held, job_id, LIMIT)
    assert stalled.value.group == group()
    assert queue.superseded(A, job_id)
    assert queue.lease("two") is None, "its process hangs"
    queue.attach(group(start=2))
    assert queue.lease("two") is not None


def test_heartbeats_of_an_earlier_group_or_job_do_not_count(queue: JobQueue, clock: Clock) -> None:
    held = lease(queue)
    old = queue.post(held, {})
    queue.attach(group(start=2))
    job_id = queue.post(held, {})
    clock.now = LIMIT + 1
    queue.renew(held)
    queue.heartbeat(A, job_id)
    queue.heartbeat(group(start=2).id, old)
    with pytest.raises(StalledError):
        queue.pull(held, job_id, LIMIT)


def test_results_are_pulled_before_a_stall_is_reported(queue: JobQueue, clock: Clock) -> None:
    held = lease(queue)
    job_id = queue.post(held, {})
    queue.push(A, job_id, {"kind": "done"})
    clock.now = LIMIT + 1
    queue.renew(held)
    assert queue.pull(held, job_id, LIMIT) == {"kind": "done"}
    assert queue.pull(held, job_id, LIMIT) is None, "a job that has ended cannot stall"


# slots that end -------------------------------------------------------------------------------------


def test_changes_to_an_unknown_slot_are_ignored(queue: JobQueue) -> None:
    before = queue.overview()
    for change in (queue.mark_lost, queue.vacate, queue.retire, queue.remove):
        change("unknown")
    assert queue.overview() == before


def test_an_evicted_holder_loses_its_lease_at_once(queue: JobQueue) -> None:
    held = lease(queue)
    job_id = queue.post(held, {"kind": "trial"})
    queue.retire("a", evict=True)
    assert queue.superseded(A, job_id)
    assert taken(queue, A, after=job_id)[1] == {"kind": "exit"}
    assert not queue.renew(held)


def test_a_retiring_slot_ends_once_it_has_no_holder(queue: JobQueue) -> None:
    held = lease(queue)
    job_id = queue.post(held, {"kind": "trial"})
    queue.retire("a")
    assert taken(queue, A)[0] == job_id
    assert queue.take(A, after=job_id) is None
    queue.release(held)
    assert taken(queue, A, after=job_id)[1] == {"kind": "exit"}
    assert queue.lease("two") is None


def test_the_lease_on_a_removed_slot_is_lost(queue: JobQueue) -> None:
    held = lease(queue)
    queue.remove("a")
    assert not queue.renew(held)
    assert queue.overview() == {}


def test_a_vacated_slot_finishes_its_epoch_and_interrupts_its_holder(queue: JobQueue) -> None:
    queue.attach(group("b"))
    held = lease(queue)
    job_id = queue.post(held, {"n": 1})
    queue.vacate("a")
    assert not queue.superseded(A, job_id), "the current epoch continues"
    assert lease(queue, "two").slot == "b", "no other job starts there"
    assert queue.push(A, job_id, {"kind": "epoch", "epoch": 1, "last": False}) == "accepted"
    assert queue.superseded(A, job_id)
    assert kinds(queue, held, job_id) == ["epoch", "interrupted"]
    assert queue.take(A, after=job_id) is None, "the lease still holds"
    queue.release(held)
    assert taken(queue, A, after=job_id)[1] == {"kind": "exit"}


def test_a_vacated_slot_finishes_a_job_whose_last_epoch_is_done(queue: JobQueue) -> None:
    held = lease(queue)
    job_id = queue.post(held, {"n": 1})
    queue.vacate("a")
    for result in ({"kind": "epoch", "epoch": 9, "last": True}, {"kind": "done"}):
        assert queue.push(A, job_id, result) == "accepted"
    assert kinds(queue, held, job_id) == ["epoch", "done"]


def test_a_slot_vacated_at_once_supersedes_its_job_and_takes_no_other(queue: JobQueue) -> None:
    held = lease(queue)
    job_id = queue.post(held, {"n": 1})
    for _ in range(2):
        queue.vacate("a", at_once=True)
    assert queue.push(A, job_id, {"kind": "epoch", "epoch": 1, "last": False}) == "superseded"
    assert kinds(queue, held, job_id) == ["interrupted"]
    later = queue.post(held, {"n": 2})
    assert kinds(queue, held, later) == ["interrupted"]


def test_a_slot_on_a_lost_machine_is_free_again_after_it_attaches(queue: JobQueue) -> None:
    held = lease(queue)
    job_id = queue.post(held, {"n": 1})
    for _ in range(2):
        queue.mark_lost("a")
    assert kinds(queue, held, job_id) == ["interrupted"]
    assert kinds(queue, held, queue.post(held, {})) == ["interrupted"]
    queue.release(held)
    assert queue.lease("two") is None
    restarted = group(start=2)
    queue.attach(restarted)
    assert queue.take(restarted.id, after=-1) is None, "the interrupted job is not run twice"
    assert queue.lease("two") is not None


# jobs that kill their group -------------------------------------------------------------------------


def run_and_die(queue: JobQueue, start: int, *results: dict[str, Any]) -> bool:
    """Start the group again, and run the slot's job until it kills the group; False where there is none."""
    restarted = group(start=start)
    queue.attach(restarted)
    found = queue.take(restarted.id, after=-1)
    if found is None:
        return False
    assert queue.start(restarted.id, found[0])
    for result in results:
        queue.push(restarted.id, found[0], result)
    return True


def deaths_survived(queue: JobQueue, job_id: int, *results: dict[str, Any], most: int = 50) -> int:
    """How often a job is started that pushes these results and then kills its group."""
    return next((n for n in range(most) if not run_and_die(queue, 100 * job_id + n, *results)), most)


def test_a_job_that_keeps_killing_its_group_fails(queue: JobQueue) -> None:
    held = lease(queue)
    job_id = queue.post(held, {"n": 1})
    assert deaths_survived(queue, job_id) == JOB_ATTEMPTS
    failure = queue.pull(held, job_id)
    assert failure is not None
    assert failure["kind"] == "failed"
    assert "memory" in failure["reason"]
    assert queue.pull(held, job_id) is None
    later = queue.post(held, {"n": 2})
    assert deaths_survived(queue, later) == JOB_ATTEMPTS, "every job has its own count"


@pytest.mark.parametrize(
    "results",
    [
        [{"kind": "epoch", "epoch": 1}, {"kind": "epoch", "epoch": 2}],
        [{"kind": "progress", "done": 128, "total": 512}],
        [{"kind": "tested", "trial_id": "t0000"}],
    ],
)
def test_repeated_results_after_a_restart_are_no_progress(results: list[dict[str, Any]]) -> None:
    queue = JobQueue(max_unread=1000)
    queue.attach(group())
    job_id = queue.post(lease(queue), {})
    assert deaths_survived(queue, job_id, *results) == JOB_ATTEMPTS


def test_a_job_that_gets_further_in_every_attempt_continues(queue: JobQueue) -> None:
    held = lease(queue)
    job_id = queue.post(held, {})
    for epoch in range(1, 4 * JOB_ATTEMPTS):
        assert run_and_die(queue, epoch, {"kind": "epoch", "epoch": epoch})
        pulled = queue.pull(held, job_id)
        assert pulled is not None
        assert pulled["epoch"] == epoch
    assert deaths_survived(queue, job_id) == JOB_ATTEMPTS - 1, "the last of them ended with a death too"


def test_starting_twice_in_one_group_is_one_attempt(queue: JobQueue) -> None:
    job_id = queue.post(lease(queue), {})
    for _ in range(10):
        assert queue.start(A, job_id)
    assert deaths_survived(queue, job_id) == JOB_ATTEMPTS - 1


def test_alive_results_never_wait_and_count_as_progress(queue: JobQueue) -> None:
    held = lease(queue)
    job_id = queue.post(held, {})
    alive = [{"kind": "alive", "epoch": epoch} for epoch in range(1, 10)]
    for result in alive:
        assert run_and_die(queue, result["epoch"], result)
    assert queue.pull(held, job_id) == alive[0], "one is kept"
    assert queue.pull(held, job_id) is None
    assert deaths_survived(queue, job_id) == JOB_ATTEMPTS - 1

"""Leases, fencing and back-pressure of the mailboxes, without Ray and without a clock."""

import pytest

from tkd_search.engine.workers.job_queue import DEATHS, JobQueue, LeaseLostError


@pytest.fixture
def boxes() -> JobQueue:
    boxes = JobQueue(time_to_live=10, ahead=2)
    boxes.attach("a", {"pid": 1})
    return boxes


def test_a_slot_has_one_holder_at_a_time(boxes):
    first = boxes.lease("one", 0.0)
    assert first is not None
    assert boxes.lease("two", 0.0) is None
    boxes.release(first)
    assert boxes.lease("two", 0.0) is not None


def test_the_overview_tells_who_is_there_and_works(boxes):
    idle = {"info": {"pid": 1}, "attached": 1, "up": True, "holder": None, "retiring": False, "busy": False}
    assert boxes.overview() == {"a": idle}
    boxes.post(boxes.lease("one", 0.0), {})
    boxes.attach("a", {"pid": 2})
    boxes.retire("a")
    busy = {"info": {"pid": 2}, "attached": 2, "up": True, "holder": "one", "retiring": True, "busy": True}
    assert boxes.overview() == {"a": busy}


def test_a_job_for_a_slot_whose_machine_has_gone_is_interrupted(boxes):
    lease = boxes.lease("one", 0.0)
    boxes.lost("a")
    assert kinds(boxes, lease, boxes.post(lease, {})) == ["interrupted"]


def test_a_group_that_is_gone_for_good_takes_its_holders_lease_along(boxes):
    lease = boxes.lease("one", 0.0)
    boxes.forget("a")
    assert not boxes.beat(lease, 0.0)
    assert boxes.overview() == {}


def test_slots_that_nobody_knows_are_nothing_to_end(boxes):
    before = boxes.overview()
    for end in (boxes.lost, boxes.vacate, boxes.retire, boxes.forget):
        end("unknown")
    assert boxes.overview() == before


def test_results_come_back_in_order_and_once(boxes):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {"kind": "trial"})
    assert boxes.take("a", after=-1) == (job_id, {"kind": "trial"})
    assert boxes.take("a", after=job_id) is None
    assert [boxes.push("a", job_id, {"epoch": i}) for i in (1, 2)] == ["accepted"] * 2
    assert [boxes.pull(lease, job_id) for _ in range(3)] == [{"epoch": 1}, {"epoch": 2}, None]


def test_a_group_may_not_run_further_ahead_than_allowed(boxes):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {})
    answers = [boxes.push("a", job_id, {"epoch": i}) for i in (1, 2, 3)]
    assert answers == ["accepted", "accepted", "full"]
    boxes.pull(lease, job_id)
    assert boxes.push("a", job_id, {"epoch": 3}) == "accepted"


def test_a_new_job_supersedes_the_old_one_at_once(boxes):
    lease = boxes.lease("one", 0.0)
    old = boxes.post(lease, {"n": 1})
    new = boxes.post(lease, {"n": 2})
    assert boxes.push("a", old, {"epoch": 1}) == "superseded"
    assert boxes.superseded("a", old)
    assert boxes.take("a", after=old) == (new, {"n": 2})
    with pytest.raises(LeaseLostError):
        boxes.pull(lease, old)


def test_a_silent_holder_loses_its_slot_and_cannot_disturb_its_successor(boxes):
    silent = boxes.lease("silent", 0.0)
    boxes.post(silent, {"n": 1})
    successor = boxes.lease("successor", 10.5)
    job_id = boxes.post(successor, {"n": 2})
    assert not boxes.beat(silent, 11.0)
    with pytest.raises(LeaseLostError):
        boxes.post(silent, {"n": 3})
    boxes.release(silent)
    assert boxes.take("a", after=-1) == (job_id, {"n": 2})


def test_a_beating_holder_keeps_its_slot(boxes):
    lease = boxes.lease("one", 0.0)
    for now in (5.0, 14.0, 23.0):
        assert boxes.beat(lease, now)
    assert boxes.lease("two", 25.0) is None


def test_a_group_that_comes_up_again_is_handed_its_unfinished_job(boxes):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {"n": 1})
    boxes.take("a", after=-1)
    boxes.attach("a", {"pid": 2})
    assert boxes.take("a", after=-1) == (job_id, {"n": 1})


def test_a_broker_that_forgot_everything_takes_nothing_of_the_former_for_its_own():
    before, after = JobQueue(generation=1), JobQueue(generation=2)
    before.attach("a", {})
    lease = before.lease("one", 0.0)
    job_id = before.post(lease, {})
    assert after.take("a", after=job_id) is None  # the group attaches by asking
    assert after.push("a", job_id, {}) == "superseded"
    assert not after.beat(lease, 0.0)
    fresh = after.lease("two", 0.0)
    assert after.post(fresh, {}) != job_id


def test_an_evicted_holder_makes_way_at_once(boxes):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {"kind": "trial"})
    boxes.retire("a", evict=True)
    assert boxes.superseded("a", job_id)
    assert boxes.take("a", after=job_id)[1] == {"kind": "exit"}
    assert not boxes.beat(lease, 0.0)


def test_a_retiring_slot_ends_only_when_nobody_holds_it(boxes):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {"kind": "trial"})
    boxes.retire("a")
    assert boxes.take("a", after=-1)[0] == job_id
    assert boxes.take("a", after=job_id) is None
    boxes.release(lease)
    assert boxes.take("a", after=job_id)[1] == {"kind": "exit"}
    assert boxes.lease("two", 0.0) is None


def kinds(boxes, lease, job_id) -> list[str]:
    """Kinds of the results that are there."""
    found = []
    while (result := boxes.pull(lease, job_id)) is not None:
        found.append(result["kind"])
    return found


def test_a_slot_that_must_go_ends_its_epoch_and_then_interrupts_its_holder(boxes):
    boxes.attach("b", {})
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {"n": 1})
    boxes.vacate("a")
    assert not boxes.superseded("a", job_id), "the epoch at hand goes on"
    assert boxes.lease("two", 0.0).slot == "b", "nobody else begins there"
    assert boxes.push("a", job_id, {"kind": "epoch", "epoch": 1, "last": False}) == "accepted"
    assert boxes.superseded("a", job_id)
    assert kinds(boxes, lease, job_id) == ["epoch", "interrupted"]
    assert boxes.take("a", after=job_id) is None, "the holder still holds it"
    boxes.release(lease)
    assert boxes.take("a", after=job_id)[1] == {"kind": "exit"}


def test_a_last_epoch_is_brought_home(boxes):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {"n": 1})
    boxes.vacate("a")
    for result in ({"kind": "epoch", "epoch": 9, "last": True}, {"kind": "done"}):
        assert boxes.push("a", job_id, result) == "accepted"
    assert kinds(boxes, lease, job_id) == ["epoch", "done"]


def test_a_slot_that_must_go_at_once_drops_what_it_does(boxes):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {"n": 1})
    for _ in range(2):
        boxes.vacate("a", at_once=True)
    assert boxes.push("a", job_id, {"kind": "epoch", "epoch": 1, "last": False}) == "superseded"
    assert kinds(boxes, lease, job_id) == ["interrupted"]
    later = boxes.post(lease, {"n": 2})
    assert kinds(boxes, lease, later) == ["interrupted"], "and takes nothing new"


def test_a_slot_whose_machine_has_gone_is_nobodys_until_it_attaches_again(boxes):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {"n": 1})
    for _ in range(2):
        boxes.lost("a")
    assert kinds(boxes, lease, job_id) == ["interrupted"]
    boxes.release(lease)
    assert boxes.lease("two", 0.0) is None
    boxes.attach("a", {})
    assert boxes.take("a", after=-1) is None, "the lost job is not done twice"
    assert boxes.lease("two", 0.0) is not None


def lives_of(boxes, job_id, *results, most=50) -> int:
    """How often a group that tells these results, then dies and comes up again, is handed the job."""
    for life in range(most):
        taken = boxes.take("a", after=-1)
        if taken is None:
            return life
        assert taken[0] == job_id
        for result in results:
            boxes.push("a", job_id, result)
        boxes.attach("a", {"pid": life})
    return most


def test_a_job_that_keeps_killing_its_group_is_given_up_and_its_holder_told(boxes):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {"n": 1})
    assert lives_of(boxes, job_id) == DEATHS
    failure = boxes.pull(lease, job_id)
    assert failure["kind"] == "failed"
    assert "memory" in failure["reason"]
    assert boxes.pull(lease, job_id) is None, "told once"
    assert boxes.take("a", after=-1) is None
    later = boxes.post(lease, {"n": 2})
    assert lives_of(boxes, later) == DEATHS, "every job has its own count"


@pytest.mark.parametrize(
    "told",
    [
        [{"kind": "epoch", "epoch": 1}, {"kind": "epoch", "epoch": 2}],
        [{"kind": "progress", "done": 128, "total": 512}],
        [{"kind": "tested", "trial_id": "t0000"}],
    ],
)
def test_telling_the_same_again_after_a_restart_is_no_progress(told):
    boxes = JobQueue(ahead=1000)
    boxes.attach("a", {})
    job_id = boxes.post(boxes.lease("one", 0.0), {})
    assert lives_of(boxes, job_id, *told) == DEATHS


def test_a_job_that_gets_further_in_every_life_goes_on(boxes):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {})
    for epoch in range(1, 4 * DEATHS):
        assert boxes.take("a", after=-1)[0] == job_id
        assert boxes.push("a", job_id, {"kind": "epoch", "epoch": epoch}) == "accepted"
        assert boxes.pull(lease, job_id)["epoch"] == epoch
        boxes.attach("a", {})
    assert lives_of(boxes, job_id) == DEATHS - 1, "the last life that got further ended with a death too"


def test_a_sign_of_life_never_makes_a_group_wait_and_counts_as_progress(boxes):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {})
    alive = [{"kind": "alive", "epoch": epoch} for epoch in range(1, 10)]
    for result in alive:
        boxes.take("a", after=-1)
        assert boxes.push("a", job_id, result) == "accepted"
        boxes.attach("a", {})
    assert boxes.pull(lease, job_id) == alive[0], "one is enough"
    assert boxes.pull(lease, job_id) is None
    assert lives_of(boxes, job_id) == DEATHS - 1


@pytest.mark.parametrize("ending", ["done", "failed", "broken"])
def test_a_job_that_has_ended_is_not_handed_out_again(boxes, ending):
    lease = boxes.lease("one", 0.0)
    job_id = boxes.post(lease, {})
    boxes.take("a", after=-1)
    boxes.push("a", job_id, {"kind": ending})
    boxes.attach("a", {})
    assert boxes.take("a", after=-1) is None
    assert kinds(boxes, lease, job_id) == [ending], "its holder hears of it all the same"

"""Which slots leave, end and start: properties of the pure decision."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tkd_search.engine.workers.autoscaling import (
    DRAIN_SECONDS,
    YIELD_AFTER_CHECKS,
    Action,
    decide,
    exceeds_share,
)
from tkd_search.engine.workers.cluster_state import ClusterState
from tkd_search.engine.workers.slot import SlotState

NODES = ("n0", "n1", "n2", "n3")
OURS, OTHER = "01", "02"
counts = st.integers(0, 6)
slot_states = st.builds(
    SlotState,
    nodes=st.lists(st.sampled_from(NODES), max_size=2).map(tuple),
    up=st.booleans(),
    retiring=st.booleans(),
)
all_slots = st.lists(slot_states, max_size=6).map(lambda found: {f"slot{i}": s for i, s in enumerate(found)})


@st.composite
def clusters(draw: Callable) -> ClusterState:
    alive = frozenset(draw(st.sets(st.sampled_from(NODES))))
    draining = draw(st.dictionaries(st.sampled_from(sorted(alive)), st.floats(0, 300))) if alive else {}
    by_job = st.dictionaries(st.sampled_from([OURS, OTHER, "03"]), counts)
    return ClusterState(alive=alive, draining=draining, groups=draw(by_job), waiting=draw(by_job))


def actions(slots, cluster, limit=10, free_groups=0, checks_waiting=0) -> tuple[Action, ...]:
    return decide(
        slots, cluster, job=OURS, limit=limit, free_groups=free_groups, checks_waiting=checks_waiting
    )


def cluster_of(*nodes: str, **more: object) -> ClusterState:
    return ClusterState(alive=frozenset(nodes), **more)


@given(all_slots, clusters(), counts, counts, counts)
def test_every_action_has_a_reason(slots, cluster, limit, free_groups, seen) -> None:
    for action in actions(slots, cluster, limit, free_groups, seen):
        slot = slots.get(action.slot)
        gone = slot is not None and bool(set(slot.nodes) - cluster.alive)
        leaving = slot is not None and bool(set(slot.nodes) & cluster.draining.keys())
        if action.kind == "lost":
            assert gone
        elif action.kind in ("vacate", "vacate_now"):
            assert leaving
            assert not gone
        elif action.kind == "retire":
            assert seen >= YIELD_AFTER_CHECKS
            assert cluster.waiting.get(OTHER, 0) + cluster.waiting.get("03", 0) > 0
        else:
            assert slot is None


@given(all_slots, clusters(), counts, counts, counts)
def test_never_more_slots_than_the_limit_or_than_fit(slots, cluster, limit, free_groups, seen) -> None:
    started = sum(action.kind == "start" for action in actions(slots, cluster, limit, free_groups, seen))
    assert started <= free_groups
    assert started == 0 or started + len(slots) <= limit


@given(all_slots, clusters(), counts, counts, counts)
def test_every_slot_on_a_lost_machine_is_lost(slots, cluster, limit, free_groups, seen) -> None:
    found = actions(slots, cluster, limit, free_groups, seen)
    lost = {action.slot for action in found if action.kind == "lost"}
    assert lost == {name for name, slot in slots.items() if slot.up and set(slot.nodes) - cluster.alive}


@given(st.integers(0, 20), st.integers(0, 20))
def test_two_searches_that_yield_to_each_other_reach_equal_shares(mine: int, theirs: int) -> None:
    shares = [mine, theirs]
    for _ in range(50):
        for me, other in ((0, 1), (1, 0)):
            cluster = cluster_of(groups={OURS: shares[me], OTHER: shares[other]}, waiting={OTHER: 1})
            if exceeds_share(cluster, OURS):
                shares[me], shares[other] = shares[me] - 1, shares[other] + 1
    assert abs(shares[0] - shares[1]) <= 1
    assert sum(shares) == mine + theirs


def test_a_draining_machine_is_vacated_once_and_at_once_in_its_last_seconds() -> None:
    slot, cluster = SlotState(nodes=("n0",), up=True), cluster_of("n0", draining={"n0": 100.0})
    assert actions({"a": slot}, cluster) == (Action("vacate", "a"),)
    retiring = {"a": SlotState(nodes=("n0",), up=True, retiring=True)}
    assert actions(retiring, cluster) == ()
    last = cluster_of("n0", draining={"n0": DRAIN_SECONDS})
    assert actions(retiring, last) == (Action("vacate_now", "a"),)


def test_the_machine_with_the_least_time_left_decides() -> None:
    slot = SlotState(nodes=("n0", "n1", "n2"), up=True)
    cluster = cluster_of("n0", "n1", "n2", draining={"n0": 100.0, "n1": DRAIN_SECONDS / 2})
    assert actions({"a": slot}, cluster) == (Action("vacate_now", "a"),)


def test_a_new_machine_is_used_and_a_starting_slot_is_not_counted_twice() -> None:
    up = {"a": SlotState(nodes=("n0",), up=True)}
    assert actions(up, cluster_of("n0", "n1"), free_groups=2) == (Action("start"),) * 2
    assert actions({**up, "b": SlotState()}, cluster_of("n0", "n1"), free_groups=2) == (Action("start"),)
    assert actions(up, cluster_of("n0", "n1"), limit=1, free_groups=2) == ()


def test_a_slot_is_yielded_only_to_a_search_that_waits_while_nothing_is_free() -> None:
    slots = {name: SlotState(nodes=("n0",), up=True) for name in "ab"}
    cluster = cluster_of("n0", groups={OURS: 2}, waiting={OTHER: 1})
    assert actions(slots, cluster, checks_waiting=YIELD_AFTER_CHECKS) == (Action("retire", "b"),)
    assert actions(slots, cluster, checks_waiting=YIELD_AFTER_CHECKS - 1) == ()
    assert actions(slots, cluster, free_groups=1, checks_waiting=YIELD_AFTER_CHECKS) == ()
    fair = cluster_of("n0", groups={OURS: 2, OTHER: 1}, waiting={OTHER: 1})
    assert actions(slots, fair, checks_waiting=9) == ()
    retiring = {**slots, "b": SlotState(nodes=("n0",), up=True, retiring=True)}
    assert actions(retiring, cluster, checks_waiting=YIELD_AFTER_CHECKS) == (), "one at a time"

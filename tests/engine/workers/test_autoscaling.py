"""Who makes way and who starts: properties of the pure decision."""

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tkd_search.engine.workers.autoscaling import (
    LAST_SECONDS,
    PATIENCE,
    Move,
    SlotState,
    decide,
    has_too_many,
)
from tkd_search.engine.workers.cluster_state import ClusterState

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


def moves(slots, cluster, limit=10, fitting=0, seen_waiting=0) -> tuple[Move, ...]:
    return decide(slots, cluster, job=OURS, limit=limit, fitting=fitting, seen_waiting=seen_waiting)


def here(*nodes: str, **more: object) -> ClusterState:
    return ClusterState(alive=frozenset(nodes), **more)  # type: ignore[arg-type]


@given(all_slots, clusters(), counts, counts, counts)
def test_no_slot_moves_without_a_reason(slots, cluster, limit, fitting, seen) -> None:
    for move in moves(slots, cluster, limit, fitting, seen):
        slot = slots.get(move.slot)
        gone = slot is not None and bool(set(slot.nodes) - cluster.alive)
        leaving = slot is not None and bool(set(slot.nodes) & cluster.draining.keys())
        if move.kind == "lost":
            assert gone
        elif move.kind in ("vacate", "vacate_now"):
            assert leaving
            assert not gone
        elif move.kind == "retire":
            assert seen >= PATIENCE
            assert cluster.waiting.get(OTHER, 0) + cluster.waiting.get("03", 0) > 0
        else:
            assert slot is None


@given(all_slots, clusters(), counts, counts, counts)
def test_never_more_slots_than_the_limit_or_than_fit(slots, cluster, limit, fitting, seen) -> None:
    started = sum(move.kind == "start" for move in moves(slots, cluster, limit, fitting, seen))
    assert started <= fitting
    assert started == 0 or started + len(slots) <= limit


@given(all_slots, clusters(), counts, counts, counts)
def test_every_slot_on_a_machine_that_has_gone_is_lost(slots, cluster, limit, fitting, seen) -> None:
    lost = {move.slot for move in moves(slots, cluster, limit, fitting, seen) if move.kind == "lost"}
    assert lost == {name for name, slot in slots.items() if slot.up and set(slot.nodes) - cluster.alive}


@given(st.integers(0, 20), st.integers(0, 20))
def test_two_searches_that_yield_to_each_other_come_to_rest(mine: int, theirs: int) -> None:
    shares = [mine, theirs]
    for _ in range(50):
        for me, other in ((0, 1), (1, 0)):
            cluster = here(groups={OURS: shares[me], OTHER: shares[other]}, waiting={OTHER: 1})
            if has_too_many(cluster, OURS):
                shares[me], shares[other] = shares[me] - 1, shares[other] + 1
    assert abs(shares[0] - shares[1]) <= 1
    assert sum(shares) == mine + theirs


def test_a_notice_is_heeded_once_and_the_last_seconds_are_not_waited_for() -> None:
    slot, cluster = SlotState(nodes=("n0",), up=True), here("n0", draining={"n0": 100.0})
    assert moves({"a": slot}, cluster) == (Move("vacate", "a"),)
    assert moves({"a": SlotState(nodes=("n0",), up=True, retiring=True)}, cluster) == ()
    last = here("n0", draining={"n0": LAST_SECONDS})
    assert moves({"a": SlotState(nodes=("n0",), up=True, retiring=True)}, last) == (Move("vacate_now", "a"),)


def test_of_several_machines_the_first_to_go_decides() -> None:
    slot = SlotState(nodes=("n0", "n1", "n2"), up=True)
    cluster = here("n0", "n1", "n2", draining={"n0": 100.0, "n1": LAST_SECONDS / 2})
    assert moves({"a": slot}, cluster) == (Move("vacate_now", "a"),)


def test_a_machine_that_joins_is_used_and_one_that_is_starting_is_not_counted_twice() -> None:
    up = {"a": SlotState(nodes=("n0",), up=True)}
    assert moves(up, here("n0", "n1"), fitting=2) == (Move("start"),) * 2
    assert moves({**up, "b": SlotState()}, here("n0", "n1"), fitting=2) == (Move("start"),)
    assert moves(up, here("n0", "n1"), limit=1, fitting=2) == ()


def test_a_slot_is_yielded_only_where_another_search_has_waited_and_nothing_is_free() -> None:
    slots = {name: SlotState(nodes=("n0",), up=True) for name in "ab"}
    cluster = here("n0", groups={OURS: 2}, waiting={OTHER: 1})
    assert moves(slots, cluster, seen_waiting=PATIENCE) == (Move("retire", "b"),)
    assert moves(slots, cluster, seen_waiting=PATIENCE - 1) == ()
    assert moves(slots, cluster, fitting=1, seen_waiting=PATIENCE) == ()
    assert moves(slots, here("n0", groups={OURS: 2, OTHER: 1}, waiting={OTHER: 1}), seen_waiting=9) == ()
    retiring = {**slots, "b": SlotState(nodes=("n0",), up=True, retiring=True)}
    assert moves(retiring, cluster, seen_waiting=PATIENCE) == (), "one at a time"

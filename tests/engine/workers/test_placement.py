"""Arithmetic of slots, threads of a stage and parts of a bank."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_search.config.search_settings import ResourceSettings
from tkd_search.engine.workers.placement import bank_parts, plan_slots, stage_threads
from tkd_search.errors import UserError


def test_slots_fill_the_nodes():
    resources = ResourceSettings(workers_per_trial=2, cpus_per_worker=1.5)
    assert plan_slots(resources, [{"CPU": 4}, {"CPU": 2}], trials=100).count == 1
    assert plan_slots(resources, [{"CPU": 4}, {"CPU": 3}], trials=100).count == 2


def test_a_node_without_cores_holds_no_worker_and_tenths_of_a_core_add_up():
    assert plan_slots(ResourceSettings(), [{"CPU": 2}, {"memory": 1e9}], trials=9).count == 2
    assert plan_slots(ResourceSettings(cpus_per_worker=0.1), [{"CPU": 0.3}], trials=9).count == 3


def test_the_arithmetic_names_available_and_needed_resources():
    slots = plan_slots(ResourceSettings(gpus_per_worker=0.5), [{"CPU": 8, "GPU": 1}, {"CPU": 2}], trials=9)
    assert slots.arithmetic == (
        "8 CPU and 1 GPU + 2 CPU ÷ (1 workers × 1 CPU and 0.5 GPU) = 2 at once; using 2"
    )


def test_a_trial_that_never_fits_is_refused_with_the_arithmetic():
    with pytest.raises(UserError) as caught:
        plan_slots(ResourceSettings(workers_per_trial=3), [{"CPU": 2}], trials=1)
    assert "3 workers × 1 CPU" in str(caught.value)
    assert "2 CPU" in str(caught.value)
    assert "at most 2 workers" in str(caught.value)


def test_a_fraction_of_a_gpu_is_never_split_over_two():
    resources = ResourceSettings(gpus_per_worker=0.6)
    assert plan_slots(resources, [{"CPU": 16, "GPU": 2}], trials=10).count == 2
    quarter = ResourceSettings(gpus_per_worker=0.25)
    assert plan_slots(quarter, [{"CPU": 16, "GPU": 1}], trials=10).count == 4
    with pytest.raises(UserError, match="GPU"):
        plan_slots(quarter, [{"CPU": 16}], trials=10)


def test_more_than_one_gpu_a_worker_must_be_whole():
    assert plan_slots(ResourceSettings(gpus_per_worker=2.0), [{"CPU": 8, "GPU": 4}], trials=10).count == 2
    with pytest.raises(ValueError, match="whole number"):
        ResourceSettings(gpus_per_worker=1.5)


@given(
    cpus=st.lists(st.integers(1, 64), min_size=1, max_size=5),
    workers=st.integers(1, 4),
    limit=st.integers(1, 100),
)
def test_never_more_slots_than_cores_trials_or_the_limit(cpus, workers, limit):
    resources = ResourceSettings(workers_per_trial=workers, max_concurrent=limit)
    nodes = [{"CPU": float(count)} for count in cpus]
    if sum(cpus) < workers:
        with pytest.raises(UserError):
            plan_slots(resources, nodes, trials=7)
    else:
        count = plan_slots(resources, nodes, trials=7).count
        assert 1 <= count <= min(limit, 7, sum(cpus) // workers)


@pytest.mark.parametrize(
    ("workers", "cpus", "nodes", "slots", "threads"),
    [
        (1, 1, [2], 2, 2),
        (1, 1, [16], 1, 1),  # a limit of one slot leaves the other cores to other programs
        (2, 1, [2], 1, 1),
        (1, 4, [16], 4, 16),
        (2, 4, [32], 2, 8),
        (1, 0.5, [2], 1, 1),  # at least one
        (1, 1, [0, 4, 8], 12, 4),  # the stage's node is unknown: the smallest counts
    ],
)
def test_a_stage_may_use_the_cores_of_idle_groups_on_its_node(workers, cpus, nodes, slots, threads):
    resources = ResourceSettings(workers_per_trial=workers, cpus_per_worker=cpus)
    assert stage_threads(resources, [{"CPU": float(n)} for n in nodes], slots) == threads


@pytest.mark.parametrize(
    ("workers", "gpus", "nodes", "slots", "rows", "parts"),
    [
        (1, 0, [{"CPU": 2}], 2, 10**6, 1),  # cores of one node: threads are as fast
        (1, 0, [{"CPU": 2}, {"CPU": 2}], 4, 10**6, 4),
        (1, 0, [{"CPU": 1}, {"CPU": 1}], 2, 10**6, 2),
        (1, 0, [{"CPU": 2}, {"memory": 1e9}], 2, 10**6, 1),
        (1, 0, [{"CPU": 2}, {"CPU": 2}], 1, 10**6, 1),  # the other machines are not up yet
        (1, 0, [{"CPU": 2}, {"CPU": 2}], 4, 20_000, 2),  # too few rows for more parts
        (1, 0, [{"CPU": 2}, {"CPU": 2}], 4, 9_000, 1),
        (1, 1, [{"CPU": 8, "GPU": 4}], 4, 10**6, 4),
        (2, 1, [{"CPU": 8, "GPU": 4}], 2, 10**6, 4),
        (2, 1, [{"CPU": 8, "GPU": 4}], 1, 10**6, 1),
        (1, 0.25, [{"CPU": 8, "GPU": 1}], 4, 10**6, 1),  # four processes on one GPU gain nothing
        (1, 0.25, [{"CPU": 8, "GPU": 2}], 8, 10**6, 2),
    ],
)
def test_a_bank_is_split_over_machines_or_gpus(workers, gpus, nodes, slots, rows, parts):
    resources = ResourceSettings(workers_per_trial=workers, gpus_per_worker=gpus)
    assert bank_parts(resources, nodes, slots, rows) == parts


def test_memory_limits_the_slots_unless_their_number_is_set():
    nodes, few = [{"CPU": 16.0}], (2, "memory")
    slots = plan_slots(ResourceSettings(), nodes, trials=9, most=few)
    assert (slots.count, slots.limit) == (2, 2)
    assert "limited by memory" in slots.arithmetic
    assert plan_slots(ResourceSettings(max_concurrent=5), nodes, trials=9, most=few).count == 5
    four_workers = ResourceSettings(workers_per_trial=4)
    assert plan_slots(four_workers, nodes, trials=9, most=few).count == 1
    slots = plan_slots(ResourceSettings(), nodes, trials=9, most=(30, "memory"))
    assert "limited" not in slots.arithmetic
    assert (slots.count, slots.limit) == (9, 9)

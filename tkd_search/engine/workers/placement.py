"""Arithmetic on resources before anything starts: slots, threads of a stage, parts of a bank."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tkd_search.config.search_settings import ResourceSettings
from tkd_search.errors import UserError


@dataclass(frozen=True)
class Slots:
    """How many trials run at once.

    Attributes:
        count: number of slots, at least 1.
        arithmetic: how the number comes about, for the user.
        limit: most slots, should machines join.
    """

    count: int
    arithmetic: str
    limit: int


def plan_slots(
    resources: ResourceSettings,
    nodes: Sequence[Mapping[str, float]],
    trials: int,
    most: tuple[int | None, str] = (None, ""),
) -> Slots:
    """Return the slots that fit into the nodes.

    Args:
        resources: what one trial takes.
        nodes: resources of each node (``CPU``, ``GPU``), those included that a cluster file may launch.
        trials: number of trials; more slots than that are not used.
        most: most workers and what limits them, such as memory, unless ``resources.max_concurrent`` is set.

    Raises:
        UserError: not one trial fits; the message shows the arithmetic.
    """
    workers = sum(workers_on(resources, node) for node in nodes)
    need = f"{resources.workers_per_trial} workers × {resources.cpus_per_worker:g} CPU" + (
        f" and {resources.gpus_per_worker:g} GPU" if resources.gpus_per_worker else ""
    )
    have = " + ".join(
        f"{node.get('CPU', 0):g} CPU" + (f" and {node['GPU']:g} GPU" if node.get("GPU") else "")
        for node in nodes
    )
    fit = workers // resources.workers_per_trial
    if fit < 1:
        raise UserError(
            "resources.workers_per_trial",
            f"a trial of {need}, where {len(nodes)} node(s) have {have or 'nothing'}: "
            f"room for {workers} worker(s)",
            f"at most {workers} workers per trial here",
            "lower resources.workers_per_trial, cpus_per_worker or gpus_per_worker, or use larger nodes",
        )
    workers_most, scarce = most
    limit = min(trials, resources.max_concurrent or trials)
    if workers_most is not None and resources.max_concurrent is None:
        limit = min(limit, max(1, workers_most // resources.workers_per_trial))
    count = min(fit, limit)
    reason = f" (limited by {scarce})" if count < min(fit, trials, resources.max_concurrent or fit) else ""
    return Slots(count, f"{have} ÷ ({need}) = {fit} at once; using {count}{reason}", limit)


def workers_on(resources: ResourceSettings, node: Mapping[str, float]) -> int:
    """Return how many workers fit into a node with these resources."""
    fits = [math.floor(node.get("CPU", 0) / resources.cpus_per_worker + 1e-9)]
    if resources.gpus_per_worker:
        gpus = node.get("GPU", 0)
        share = resources.gpus_per_worker
        # Ray places a fraction on one GPU and never splits it over two.
        per_gpu = math.floor(1 / share + 1e-9) if share <= 1 else 0
        fits.append(int(gpus) * per_gpu if share <= 1 else math.floor(gpus / share + 1e-9))
    return min(fits)


def stage_threads(resources: ResourceSettings, nodes: Sequence[Mapping[str, float]], slots: int) -> int:
    """Return the threads of a worker in a stage: no trial runs, so it may use the cores of idle groups.

    Args:
        resources: what one trial takes.
        nodes: resources of each node that is alive.
        slots: groups that are up.
    """
    fitting = [count for node in nodes if (count := workers_on(resources, node))]
    workers = min([*fitting, slots * resources.workers_per_trial])
    return max(1, int(workers * resources.cpus_per_worker) // resources.workers_per_trial)


MIN_PART_ROWS = 8192
"""Fewest rows of a part of a bank: splitting further costs more than it saves."""


def bank_parts(
    resources: ResourceSettings, nodes: Sequence[Mapping[str, float]], slots: int, rows: int
) -> int:
    """Return in how many parts a bank is made in parallel, one worker each; a multiple of a trial's workers.

    1 where all workers share one GPU or the cores of one node: there a single group is as fast, and runs the
    big models once.

    Args:
        resources: what one trial takes.
        nodes: resources of each node that is alive.
        slots: groups that are up.
        rows: views of all training images.
    """
    workers = slots * resources.workers_per_trial
    if resources.gpus_per_worker:
        workers = min(workers, sum(int(node.get("GPU", 0)) for node in nodes))
    elif sum(workers_on(resources, node) > 0 for node in nodes) < 2:
        return 1
    groups = min(workers, rows // MIN_PART_ROWS) // resources.workers_per_trial
    return groups * resources.workers_per_trial if groups > 1 else 1

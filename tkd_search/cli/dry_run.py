"""The plan of a search: what will be searched, on which resources, and the estimated time."""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from tkd_search.cli.console import Console
from tkd_search.config.experiment_file import Config, parse_config
from tkd_search.config.resolve import describe_student, left_to_sampler
from tkd_search.config.sections import Settings
from tkd_search.config.tree import flatten
from tkd_search.engine.ray_session import (
    host_workers,
    live_nodes,
    local_nodes,
    ray_session,
    resolve_address,
)
from tkd_search.engine.workers.placement import plan_slots
from tkd_search.masking import masked_values
from tkd_search.models.model_settings import StudentSettings
from tkd_search.models.weights import weights_file
from tkd_search.optimize.space import Choice
from tkd_search.units import human_bytes

if TYPE_CHECKING:
    from tkd_search.data import DataBundle

_ENQUEUE = "search.enqueue"


def _nodes(address: str | None, cluster: Path | None) -> Sequence[Mapping[str, float]]:
    """Return the resources of the nodes to plan for: of the cluster file, the cluster, or this machine.

    Raises:
        UserError: the file cannot be read, or no Ray answers at the address.
    """
    from tkd_search.cluster.cluster_limits import launchable_nodes, max_cluster_nodes

    if cluster is not None:
        return max_cluster_nodes(cluster)
    if resolve_address(address) is None:
        return local_nodes()
    with ray_session(address):
        return launchable_nodes() or live_nodes()


def show_plan(
    config: Config, console: Console, *, address: str | None = None, cluster: Path | None = None
) -> None:
    """Print data, big model and budget, the space, and an estimated time.

    Args:
        config: the experiment.
        console: prints.
        address: of the Ray to plan for, as ``--address``.
        cluster: file of the cluster to plan for, in place of the address.

    Raises:
        UserError: the search cannot run: data missing, no room for one trial, K above the candidates.
    """
    show_summary(config, console)
    if ignored := left_to_sampler(config):  # a search prints it itself
        console.note(f"  {ignored}")
    _show_space(config, console)
    settings = config.settings()
    most = host_workers(address) if cluster is None else (None, "")
    slots = plan_slots(settings.resources, _nodes(address, cluster), settings.search.trials, most)
    console.note(f"resources: {slots.arithmetic}")
    _estimate(config, settings, slots.count, console, cluster)


def show_summary(config: Config, console: Console) -> None:
    """Print data, big model and budget."""
    settings = config.settings()
    big = ", ".join(f"{m.name} ×{m.width:g}" for m in settings.big_models)
    names = config.space.leaves.get("student.name")
    student = " or ".join(map(str, names.options)) if isinstance(names, Choice) else settings.student.name
    searched = any(key.startswith("student.") for key in config.space.leaves)
    student = f"{student}, size searched" if searched else describe_student(settings)
    budget = f"{settings.search.trials} trials of up to {settings.training.epochs} epochs"
    console.note(f"{config.name}: {big} → {student} on {settings.data.name}")
    console.note(
        f"  {budget}; {len(config.space.leaves)} leaves searched by {settings.search.sampler}, "
        f"pruner {settings.search.pruner}; results in {config.folder}/"
    )
    own = [model for model in settings.big_models if weights_file(model.weights or "") and not model.mean]
    if own and settings.data.mean is None:
        console.note(
            "  images are normalised by the mean and deviation of your training images; if the big model was "
            "trained with others, set them, for instance ImageNet's: "
            "--set big_model.mean=[0.485,0.456,0.406] --set big_model.std=[0.229,0.224,0.225]"
        )
    if settings.search.cost == "latency":
        console.note("  students are compared by the time of one image on one CPU thread of the driver")
    limit = settings.search.latency_limit
    if limit is not None:
        console.note(
            f"  a student that needs more than {limit:g} ms for one image on one CPU thread is not trained"
        )


def _show_space(config: Config, console: Console) -> None:
    table = Table(title="search space")
    for column in ("leaf", "distribution", "only where"):
        table.add_column(column)
    for key, distribution in config.space.leaves.items():
        conditions = [c for c in config.space.conditions if c.leaf == key]
        where = ", ".join(f"{c.parent} is {' or '.join(map(str, c.values))}" for c in conditions)
        table.add_row(key, str(distribution), where)
    console.out.print(table)
    console.note(
        "fixed settings that differ from their defaults (all settings: python -m tkd_search settings)"
    )
    for line in _changed_settings(config):
        console.note(f"  {line}")


def _changed_settings(config: Config) -> list[str]:
    """Return the fixed settings that differ from their defaults, ``key: value`` each; secrets masked.

    Of a list of big models all settings are returned.
    """
    defaults = flatten(parse_config({"name": config.name}).tree)
    first = len(config.tree["search"]["enqueue"])
    return [
        f"{key}: {json.dumps(value, default=str)}"
        for key, value in masked_values(flatten(config.tree)).items()
        if key not in config.space.leaves and defaults.get(key) != value and not key.startswith(_ENQUEUE)
    ] + ([f"{_ENQUEUE}: {first} configurations, tried first"] if first else [])


def _estimate(config: Config, settings: Settings, slots: int, console: Console, cluster: Path | None) -> None:
    """Print data, taps and the time that training takes: step time on this machine × steps."""
    from tkd_search.data import load_data
    from tkd_search.distill.training.batch_order import steps_per_epoch, unlabelled_per_epoch
    from tkd_search.engine.search_checks import check_search

    data = load_data(settings.data)
    checked = check_search(config, data)
    for note in checked.notes:
        console.note(note)
    labelled = len(data.train) - data.unlabelled
    more = unlabelled_per_epoch(data.train.labels, settings.training.unlabelled_ratio)
    batches = steps_per_epoch(labelled + more, settings.training.batch_size)
    students = checked.students
    seconds = sum(step_seconds(settings, student, data) for student in students) / len(students)
    epochs = settings.search.trials * settings.training.epochs
    total = epochs * batches * seconds / slots
    console.note(
        f"data: {data.name}, {labelled:,} train / {len(data.validation.labels):,} validation / "
        f"{len(data.test.labels):,} test, {data.num_classes} classes; {checked.taps} taps of the big model"
    )
    console.note(_space_needed(settings, data, checked.row_bytes))
    console.note(f"classes, in the order of the big model's outputs: {_shortened(data.classes)}")
    if settings.search.latency_limit is not None or settings.search.cost == "latency":
        fast, slow = (_latency(config, data, end) for end in (0.0, 1.0))
        console.note(
            f"latency here: {fast:.3g} ms at the small end of the space, {slow:.3g} ms at the large end"
        )
    console.note(
        f"estimated time of the trials' steps: {_duration(total)} here ({seconds * 1000:.0f} ms × {batches} "
        f"batches × {epochs} epochs ÷ {slots} slots, no trial stopped early); start, big model, bank, "
        "teaching and validation add to it"
    )
    if cluster is not None:
        from tkd_search.cluster.cluster_limits import node_hours

        console.note(f"node-hours of the whole cluster: {node_hours(cluster, total / 3600)}")


def _space_needed(settings: Settings, data: "DataBundle", row_bytes: int) -> str:
    """Return a line with the size of images and bank, and where each is kept."""
    from tkd_search.data import fixed_views

    count = sum(len(split.labels) for split in data.splits().values())
    rows = fixed_views(settings.data) * len(data.train.labels)
    bank = f"bank {human_bytes(rows * row_bytes)} on the disk ({rows:,} rows of {human_bytes(row_bytes)})"
    return (
        f"space: decoded images {human_bytes(count * data.channels * data.size**2)}, kept {_place_of(data)}; "
        f"{bank if rows else 'no rows in the bank, because F runs live'}"
    )


def _place_of(data: "DataBundle") -> str:
    """Return where the decoded images are kept."""
    from torch import Tensor

    from tkd_search.data.image_files import DecodedStore

    images = data.train.images
    if isinstance(images, Tensor):
        return "in memory"
    if isinstance(images, DecodedStore):
        return f"on the disk of each machine, {images.file.parent}"
    return "nowhere: every epoch decodes them"


def _latency(config: Config, data: "DataBundle", end: float) -> float:
    """Return the latency in ms of the student at one end (0 or 1) of every searched leaf."""
    from tkd_search.engine.latencies import measure_latency

    point = config.space.at([end] * len(config.space.leaves))
    settings = config.settings(point)
    student = settings.student
    return measure_latency(student, student.format, data, settings.big_models[0])


def step_seconds(settings: Settings, student: StudentSettings, data: "DataBundle") -> float:
    """Return the median seconds of a student's training step on this CPU, with a worker's threads."""
    import torch

    from tkd_search.data.networks import student_for

    torch.set_num_threads(max(1, int(settings.resources.cpus_per_worker)))
    model = student_for(student, settings.big_models[0], data).train()
    images = torch.randn(settings.training.batch_size, data.channels, data.size, data.size)
    labels = torch.zeros(settings.training.batch_size, dtype=torch.long)
    times = []
    for _ in range(6):
        begin = time.perf_counter()
        torch.nn.functional.cross_entropy(model(images).logits, labels).backward()
        times.append(time.perf_counter() - begin)
    return sorted(times)[len(times) // 2]


def _shortened(names: Sequence[str], most: int = 12) -> str:
    return ", ".join(names[:most]) + (f", … {names[-1]}" if len(names) > most else "")


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

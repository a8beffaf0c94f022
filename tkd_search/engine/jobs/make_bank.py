"""The jobs that compute the bank: in one part on one worker group, or in several parts on several groups.

In parts, each job stores its statistics ("survey") and its rows in files that the other jobs read. Rows are
written as they are computed, and a job that was killed goes on after those that were flushed.
"""

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tkd_search import storage
from tkd_search.config.settings_json import from_json
from tkd_search.data import fixed_views
from tkd_search.data.bank_files import BANK_FILE, join_banks, write_bank
from tkd_search.distill.features.bank_builder import BankBuilder, Survey, merge_surveys
from tkd_search.engine.jobs import caches
from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.storage import remote_folders


def build_bank(job: dict[str, Any], context: JobContext) -> None:
    """Compute and store the whole bank of all big models, on rank 0. Pushes progress and ``done``."""
    if context.rank != 0:
        return
    with remote_folders.write_once(job["folder"]) as folder:
        if folder is not None:
            with _bank_builder(job, context, (0, 1)) as builder:
                write_bank(builder, folder)
    context.push({"kind": "done"})


def survey_part(job: dict[str, Any], context: JobContext) -> None:
    """Compute the statistics of one part of the bank's rows per rank, and store them.

    Rank r has part ``job["first"]`` + r of ``job["parts"]``. Pushes progress and ``done``.
    """
    part = job["first"] + context.rank
    file = _part_file(job, "survey", part)
    with _all_ranks(context):
        if not storage.file_exists(file):
            with _bank_builder(job, context, (part, job["parts"])) as builder:
                _put_tensors(builder.survey().tensors(), file)
    context.push({"kind": "done"})


def bank_part(job: dict[str, Any], context: JobContext) -> None:
    """Compute the rows of one part per rank from the statistics of all parts, and store them.

    Pushes progress and ``done``.
    """
    part = job["first"] + context.rank
    file = _part_file(job, "rows", part)
    with _all_ranks(context):
        if not storage.file_exists(file):
            surveys = [_part_file(job, "survey", other) for other in range(job["parts"])]
            survey = merge_surveys([Survey.from_tensors(_get_tensors(one)) for one in surveys])
            with (
                remote_folders.working_folder(file) as folder,
                _bank_builder(job, context, (part, job["parts"])) as builder,
            ):
                write_bank(builder, folder, survey)
                storage.put_file(folder / BANK_FILE, file)
    context.push({"kind": "done"})


def assemble_bank(job: dict[str, Any], context: JobContext) -> None:
    """Join the parts and store the bank.

    Raises:
        ValueError: the parts do not hold as many rows as there are views.
    """
    if context.rank != 0:
        return
    # The bank exists where an earlier group stored it and was then lost.
    if not remote_folders.verify_folder(job["folder"]):
        with remote_folders.write_folder(job["folder"]) as folder, ExitStack() as read:
            places = [_part_file(job, "rows", part) for part in range(job["parts"])]
            join_banks([read.enter_context(_local(place)) for place in places], folder / BANK_FILE)
    context.push({"kind": "done"})


def part_files(job: Mapping[str, Any]) -> list[str]:
    """Return the places of the files that the jobs of a bank in parts write."""
    return [_part_file(job, what, part) for what in ("survey", "rows") for part in range(job["parts"])]


def _bank_builder(job: dict[str, Any], context: JobContext, part: tuple[int, int]) -> BankBuilder:
    data, settings = caches.data_at(job["data"]), from_json(job["settings"])
    return BankBuilder(
        caches.big_models_at(settings.big_models, job["data"], job["big_models"], context.device),
        caches.views_of(data, settings, views=fixed_views(settings.data), device=context.device),
        settings.bank,
        device=context.device,
        progress=lambda done, total: context.push({"kind": "progress", "done": done, "total": total}),
        part=part,
    )


def _part_file(job: Mapping[str, Any], what: str, part: int) -> str:
    return storage.below(job["cache"], f"bank-{job['key']}-{what}-{part}.safetensors")


@contextmanager
def _all_ranks(context: JobContext) -> Iterator[None]:
    """Wait for all ranks at the end of the block, and raise an error of one rank on every rank.

    Rank 0 can then report it.
    """
    error = ""
    try:
        yield
    except Exception as failure:
        if context.workers == 1:
            raise
        error = f"rank {context.rank}: {type(failure).__name__}: {failure}"
    if context.workers > 1:
        errors = [""] * context.workers
        torch.distributed.all_gather_object(errors, error)
        if any(errors):
            raise RuntimeError(next(filter(None, errors)))


def _put_tensors(tensors: dict[str, Tensor], place: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder) / "tensors")
        storage.put_file(Path(folder) / "tensors", place)


def _get_tensors(place: str) -> dict[str, Tensor]:
    with _local(place) as file:
        return load_file(file)


@contextmanager
def _local(place: str) -> Iterator[Path]:
    """Yield a file of a storage as a local file, which is its own where the storage is this machine."""
    own = storage.local_path(place)
    if own is not None:
        yield own
        return
    with tempfile.TemporaryDirectory() as folder:
        storage.get_file(place, Path(folder) / "file")
        yield Path(folder) / "file"

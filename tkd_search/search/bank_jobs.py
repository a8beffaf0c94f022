"""The bank as jobs: whole, on one group, or in parts on many, with files in between for surveys and rows."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tkd_search.data import storage
from tkd_search.data.bank_store import save_bank
from tkd_search.distill.bank import Bank, join_banks
from tkd_search.distill.building import BankBuilder, Survey, merge_surveys
from tkd_search.search import shared
from tkd_search.search.job_context import JobContext


def build_bank(job: dict[str, Any], context: JobContext) -> None:
    """Compute the whole bank of all big models, on rank 0, and store it; pushes progress and ``done``."""
    if context.rank != 0:
        return
    with _bank_builder(job, context, (0, 1)) as builder:
        bank = builder.bank(builder.survey())
    with storage.filling(job["folder"]) as folder:
        save_bank(bank, folder)
    context.push({"kind": "done"})


def survey_part(job: dict[str, Any], context: JobContext) -> None:
    """Each rank surveys one part of the bank's rows, from part ``job["first"]`` of ``job["parts"]`` on."""
    part = job["first"] + context.rank
    with _bank_builder(job, context, (part, job["parts"])) as builder:
        _put_tensors(builder.survey().tensors(), _part_file(job, "survey", part))
    _all_ranks_ended(context)
    context.push({"kind": "done"})


def bank_part(job: dict[str, Any], context: JobContext) -> None:
    """Each rank makes the rows of one part, after all surveys; pushes progress and ``done`` with the meta."""
    part = job["first"] + context.rank
    surveys = [
        Survey.from_tensors(_get_tensors(_part_file(job, "survey", other))) for other in range(job["parts"])
    ]
    with _bank_builder(job, context, (part, job["parts"])) as builder:
        bank = builder.bank(merge_surveys(surveys))
    _put_tensors(bank.tensors(), _part_file(job, "rows", part))
    _all_ranks_ended(context)
    context.push({"kind": "done", "meta": bank.meta()})


def assemble_bank(job: dict[str, Any], context: JobContext) -> None:
    """Put the parts together, store the bank, delete the files in between; ``job["meta"]`` is of any part."""
    if context.rank != 0:
        return
    files = [_part_file(job, "rows", part) for part in range(job["parts"])]
    bank = join_banks([Bank.from_tensors(_get_tensors(file), job["meta"]) for file in files])
    with storage.filling(job["folder"]) as folder:
        save_bank(bank, folder)
    for file in [*files, *(_part_file(job, "survey", part) for part in range(job["parts"]))]:
        storage.delete(file)
    context.push({"kind": "done"})


def _bank_builder(job: dict[str, Any], context: JobContext, part: tuple[int, int]) -> BankBuilder:
    data, settings = shared.data_at(job["data"]), shared.config_of(job["config"]).settings()
    return BankBuilder(
        shared.big_models_at(job["config"], job["data"], tuple(job["big_models"]), context.device),
        shared.views_of(data, settings, views=settings.data.views, device=context.device),
        settings.bank,
        device=context.device,
        progress=lambda done, total: context.push({"kind": "progress", "done": done, "total": total}),
        part=part,
    )


def _part_file(job: dict[str, Any], what: str, part: int) -> str:
    return storage.below(job["cache"], f"bank-{job['key']}-{what}-{part}.safetensors")


def _all_ranks_ended(context: JobContext) -> None:
    if context.workers > 1:
        torch.distributed.barrier()


def _put_tensors(tensors: dict[str, Tensor], place: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, Path(folder) / "tensors")
        storage.put_file(Path(folder) / "tensors", place)


def _get_tensors(place: str) -> dict[str, Tensor]:
    with tempfile.TemporaryDirectory() as folder:
        storage.get_file(place, Path(folder) / "tensors")
        return load_file(Path(folder) / "tensors")

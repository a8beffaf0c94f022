"""The jobs that a worker group runs, by kind.

A job is a dictionary of plain values; ``kind`` selects the function that runs it. Settings travel as JSON
text (:mod:`tkd_search.config.settings_json`), data, weights and banks as places that all nodes can read.
Results are dictionaries of plain values too, without tensors. What a job stores is written as a whole: after
a failure it is either complete or absent (:mod:`tkd_search.storage.object_store`).
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch

from tkd_search.engine.jobs.job_context import JobContext
from tkd_search.engine.jobs.make_bank import assemble_bank, bank_part, build_bank, survey_part
from tkd_search.engine.jobs.measure_front import measure_front
from tkd_search.engine.jobs.run_trial import run_trial
from tkd_search.engine.jobs.train_big_model import train_big_model
from tkd_search.models.threads import torch_threads

JOBS: Mapping[str, Callable[[dict[str, Any], JobContext], None]] = MappingProxyType(
    {
        "big_model": train_big_model,
        "bank": build_bank,
        "survey": survey_part,
        "bank_part": bank_part,
        "assemble": assemble_bank,
        "trial": run_trial,
        "test": measure_front,
    }
)
"""Job kind → the function that runs it."""


def run_job(job: dict[str, Any], context: JobContext) -> None:
    """Run a job on this worker.

    Args:
        job: ``kind``; optionally ``threads``, the number of threads in place of the group's own; and what the
            kind's function needs.
        context: the worker group.

    Raises:
        KeyError: unknown kind.
    """
    with torch_threads(job.get("threads") or torch.get_num_threads()):
        JOBS[job["kind"]](job, context)

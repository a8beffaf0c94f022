"""The driver's controller, without worker groups."""

import json
from typing import Any

import pytest

from tkd_search.config.experiment_file import Config, load_config
from tkd_search.data import load_data
from tkd_search.engine import driver
from tkd_search.engine.budget import Budget
from tkd_search.engine.controller import Controller
from tkd_search.engine.pipeline import Prepared
from tkd_search.engine.progress import Silent
from tkd_search.engine.run_dir.run_dir import RunDir
from tkd_search.engine.search_checks import CheckedSearch
from tkd_search.optimize.pruners.never import Never
from tkd_search.optimize.study import earlier_trials
from tkd_search.results.records import BigModelRecord
from tkd_search.tracking.tracker import Tracker


def controller_of(config: Config, big_model: BigModelRecord) -> Controller:
    config.folder.mkdir()
    return driver._controller(
        config,
        CheckedSearch(taps=5, pruner=Never(), earlier=(), students=(), notes=()),
        RunDir.of(config),
        Prepared(load_data(config.settings().data), "", (), big_model, ""),
        Tracker(config.folder),
        Silent(),
        Budget(config.settings().search),
    )


@pytest.mark.parametrize("masks", [1, 2])
def test_job_record_and_study_have_the_k_that_is_run(tmp_path: Any, masks: int) -> None:
    given = ["method.k={int: [1, 36]}", "method.masks={choice: [1, 2]}", f"output={tmp_path}"]
    first = f"search.enqueue=[{{method.name: tkd, method.k: 36, method.masks: {masks}}}]"
    config = load_config(None, [*given, first], name="k")
    f = BigModelRecord(name="f", bytes=10**7, parameters=1, val_accuracy=1.0, test_accuracy=1.0)
    controller = controller_of(config, f)
    assignment = controller.next_trial()
    assert assignment is not None
    assert assignment.settings.method.k == 5 * masks
    assert controller.trials()[0].config["method.k"] == 5 * masks
    (trial,) = earlier_trials(config.folder / "study.journal")
    assert trial.config["method.k"] == 5 * masks


def test_a_student_is_measured_once_before_it_is_handed_out(tmp_path: Any) -> None:
    point = "{student.name: mobilenet_v2, student.width: 0.2, student.format: fp16, method.name: %s}"
    config = load_config(
        None,
        [
            f"output={tmp_path}",
            "search.cost=latency",
            f"search.enqueue=[{point % 'tkd'}, {point % 'kd'}]",
            "search.sampler=random",
        ],
        name="fast",
    )
    f = BigModelRecord(name="f", bytes=10**7, latency=1.0, parameters=1, val_accuracy=1.0, test_accuracy=1.0)
    controller = controller_of(config, f)
    controller.next_trial()
    controller.next_trial()
    first, second = controller.trials()
    assert first.latency == second.latency == first.cost
    known = json.loads((config.folder / "latency.json").read_text())
    assert list(known.values()) == [first.latency]
    assert earlier_trials(config.folder / "study.journal", unit="latency_ms")

"""Growth of a process over the second half of the trials."""

from typing import Any

import pytest

from benchmarks.load import growth


def sample(trials: int, **processes: float) -> dict[str, Any]:
    return {
        "trials": trials,
        **{name: {"mb": mb, "files": 10.0, "threads": 4.0} for name, mb in processes.items()},
    }


def test_only_the_second_half_counts_and_not_the_end() -> None:
    samples = [
        sample(trials, driver=100.0 if trials < 100 else 50 + 0.5 * trials) for trials in range(0, 201, 20)
    ]
    report = sample(200, driver=1000.0)
    found = growth([*samples, report])["driver"]
    assert found["mb"] == 140.0
    assert found["mb_per_1000"] == pytest.approx(500.0)
    assert (found["files_per_1000"], found["threads_per_1000"]) == (0.0, 0.0)


def test_processes_that_came_or_went_have_no_growth() -> None:
    samples = [
        sample(trials, driver=1.0, **({"late": 1.0} if trials > 180 else {})) for trials in range(0, 201, 20)
    ]
    assert set(growth(samples)) == {"driver"}

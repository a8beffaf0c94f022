"""What a search of many trials costs its own processes: memory, open files and threads.

    python -m benchmarks.load --json FILE [--trials 1000] [--output FOLDER]

A real search (Ray, MLflow in SQLite) of tiny students on the digits, one epoch each. Every few seconds the
driver and each process below it are measured; the growth is the slope over the second half of the trials, so
that what a start allocates does not count. A search that was stopped goes on where it was.

Goal: open files and threads of no process grow.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tkd_search.files import write_json
from tkd_search.results.summary import read_record

SETTINGS = (
    "training.epochs=1",
    "student.width={float: [0.1, 0.3], log: true}",
    "student.name=mobilenet_v2",
    "student.ratios=null",
    "search.enqueue=[]",
    "big_model.epochs=1",
    "data.views=1",
    "data.train_limit=128",
)
PERIOD = 5.0
"""Seconds between measurements."""
FIGURES = ("mb", "files", "threads")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--output", type=Path, help="folder of the search; default: a temporary one")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        figures = load(options.trials, options.output or Path(temporary))
    write_json(options.json, figures, indent=2)
    for name, row in figures["processes"].items():
        print(f"{name}: " + ", ".join(f"{key} {value}" for key, value in row.items()))


def load(trials: int, output: Path) -> dict[str, Any]:
    """Run the search; return the number of trials, seconds, and figures by process.

    Of a process: ``mb`` (unique set size at the end), ``mb_per_1000``, ``files_per_1000`` and
    ``threads_per_1000`` (growth per 1,000 trials).
    """
    output.mkdir(parents=True, exist_ok=True)
    settings = (*SETTINGS, f"search.trials={trials}", f"output={output}")
    command = [sys.executable, "-m", "tkd_search.run", "--name", "load"]
    command += [f"--set={setting}" for setting in (*settings, f"tracking.uri=sqlite:///{output}/mlflow.db")]
    began, samples = time.monotonic(), []
    with subprocess.Popen(command) as process:
        while process.poll() is None:
            samples.append({"trials": ended_trials(output / "load"), **measure(process.pid)})
            time.sleep(PERIOD)
    if process.returncode:
        raise SystemExit(process.returncode)
    record = read_record(output / "load")
    return {
        "trials": len(record.trials),
        "seconds": round(time.monotonic() - began),
        "processes": growth(samples),
        "samples": samples,
    }


def ended_trials(run: Path) -> int:
    """Count the trials whose end is in the log of a run."""
    return sum(path.read_bytes().count(b'"trial_ended"') for path in run.glob("events/*"))


def measure(driver: int) -> dict[str, dict[str, float]]:
    """Return memory in MB, open files and threads of the driver and the processes below it, by name."""
    found: dict[str, dict[str, float]] = {}
    try:
        own = psutil.Process(driver)
        family = [own, *own.children(recursive=True)]
    except psutil.Error:
        return found
    for process in family:
        try:
            name = "driver" if process.pid == driver else f"{process.name()[:40]} {process.pid}"
            values = process.memory_full_info().uss / 1e6, process.num_fds(), process.num_threads()
        except psutil.Error:
            continue
        found[name] = dict(zip(FIGURES, values, strict=True))
    return found


def growth(samples: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return the figures by process over the second half of the trials, without the search's end.

    Processes that did not live that long are left out.
    """
    whole = samples[-1]["trials"]
    half = [sample for sample in samples if whole / 2 <= sample["trials"] < whole]
    series: dict[str, list[dict[str, float]]] = defaultdict(list)
    for sample in half:
        for name, values in sample.items():
            if name != "trials":
                series[name].append({"trials": sample["trials"], **values})
    found = {}
    for name, rows in series.items():
        trials = np.array([row["trials"] for row in rows])
        if len(rows) < 0.8 * len(half) or np.ptp(trials) == 0:
            continue
        slopes = {key: 1000 * np.polyfit(trials, [row[key] for row in rows], 1)[0] for key in FIGURES}
        found[name] = {"mb": round(rows[-1]["mb"], 1)}
        found[name] |= {f"{key}_per_1000": round(float(slope), 1) for key, slope in slopes.items()}
    return found


if __name__ == "__main__":
    main()

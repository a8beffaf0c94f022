"""Time and memory of a large set: reading, the bank and one epoch, in folders and in parquet.

    python -m benchmarks.large_set [--images 100000] [--size 224] --json FILE

Generates JPEGs of 256 × 256 pixels in 1,000 classes. Every stage runs in a process of its own; its memory is
the unique set size of this process and its children, the largest of samples every quarter of a second. Pages
of mapped files that no other process maps count in it, so ``anonymous`` is given too: what cannot be dropped.
F and student are tiny, so that the epoch shows how fast images come. It is run with the images decoded on
the disk and, as ``streamed``, decoded in the epoch; its rate is divided by that of decoding alone, with all
cores. Promise: at least .85, and memory within ``data.memory_budget_mb``.

100,000 images take about 22 GB of disk and an hour on two cores.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.large_set.images import write_folders, write_parquet

EVERY = 0.25


def run_stage(job: dict[str, Any], cache: Path) -> dict[str, Any]:
    """Run one stage in a process and return its figures with its largest memory in MB."""
    environment = {**os.environ, "TKD_CACHE": str(cache)}
    command = [sys.executable, "-m", "benchmarks.large_set.stages", json.dumps(job)]
    peak = {"uss": 0.0, "anonymous": 0.0}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            for kind, found in _memory(process.pid).items():
                peak[kind] = max(peak[kind], found / 1e6)
            time.sleep(EVERY)
        assert process.stdout is not None
        text = process.stdout.read()
    if process.returncode:
        sys.exit(f"stage {job['stage']} failed")
    return {**json.loads(text), **{f"peak_{kind}_mb": round(value) for kind, value in peak.items()}}


def _memory(pid: int) -> dict[str, int]:
    """Return the bytes that a process and its children have alone: all of them, and those without a file."""
    total = {"uss": 0, "anonymous": 0}
    try:
        for process in (own := psutil.Process(pid), *own.children(recursive=True)):
            lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
            kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
            total["uss"] += 1024 * (kilobytes["Private_Clean"] + kilobytes["Private_Dirty"])
            total["anonymous"] += 1024 * kilobytes["Anonymous"]
    except (psutil.Error, OSError, KeyError):
        pass  # it has just ended
    return total


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Return the figures of every source, by stage."""
    folders, table = options.work / f"folders-{options.images}", options.work / f"{options.images}.parquet"
    write_folders(folders, options.images)
    write_parquet(table, folders, options.images)
    common = {"size": options.size, "views": options.views, "memory_budget_mb": options.memory_budget_mb}
    sources = {
        "folders": {"name": "imagefolder", "path": str(folders), **common},
        "parquet": {"name": "table", "path": str(table), **common},
        "streamed": {"name": "imagefolder", "path": str(folders), "disk_budget_gb": 0, **common},
    }
    job = {"stage": "decode", "data": sources["folders"], "threads": options.threads}
    decoding = run_stage(job, work / "cache")
    bare = decoding["images"] / decoding["seconds"]
    found: dict[str, Any] = {}
    for source, data in sources.items():
        place, cache = work / source, work / f"{source}-cache"
        found[source] = {}
        for stage in ("read", "bank", "epoch"):
            job = {"stage": stage, "data": data, "place": str(place), "threads": options.threads}
            found[source][stage] = run_stage(job, cache)
            print(source, stage, found[source][stage], flush=True)
        shutil.rmtree(cache)
    for stages in found.values():
        rate = stages["epoch"]["images"] / stages["epoch"]["epoch_seconds"]
        stages["epoch"] |= {"images_per_second": rate, "over_bare_decoding": rate / bare}
    return {"bare_decoding_images_per_second": bare, **found}


def main() -> None:
    """Generate the images where they are missing, measure, and write the file of figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=100_000, help="in at most 1,000 classes")
    parser.add_argument("--size", type=int, default=224, help="data.size")
    parser.add_argument("--views", type=int, default=1, help="data.views")
    parser.add_argument("--memory-budget-mb", type=int, default=1024, help="data.memory_budget_mb")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of a worker")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "large_set")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=options.work) as work:
        figures = measure(options, Path(work))
    settings = {name: str(value) for name, value in vars(options).items()}
    options.json.write_text(json.dumps({"settings": settings, **figures}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()

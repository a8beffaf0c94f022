"""The whole matrix: for every kind of fault a search that suffers it again and again; prints a table.

``python -m tests.faults.matrix [--repeats 5] [--seed 0] [--kinds worker,gcs] [--json FILE]``
"""

import argparse
import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from tests.faults.kinds import KINDS, strike
from tests.faults.searched import FaultySearch, losses

TRIALS = 12


def suffer(kind: str, repeats: int, seed: int) -> dict[str, Any]:
    """Run one search that suffers a fault ``repeats`` times; return the row of the table."""
    draw, began = random.Random(f"{kind} {seed}"), time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        search = FaultySearch(Path(folder), trials=TRIALS, seed=seed)
        try:
            search.start()
            search.wait_for_events(1)
            struck = [strike(search, kind, draw) for _ in range(repeats)]
            while not search.ended():
                search.wait_for_events(1)
            search.report()
            lost, twice = losses(search)
        finally:
            search.close()
    seconds = [one for one in struck if one is not None]
    return {
        "fault": kind,
        "seed": seed,
        "repeats": len(seconds),
        "lost": lost,
        "doubled": twice,
        "drivers": search.drivers,
        "seconds_to_go_on": round(median(seconds), 1) if seconds else None,
        "longest": round(max(seconds), 1) if seconds else None,
        "whole_seconds": round(time.monotonic() - began),
    }


def main() -> int:
    """Run the matrix; return 1 if anything was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    rows = []
    print("| fault | repeats | lost | doubled | drivers | seconds to go on: median | longest |")
    print("|---|---|---|---|---|---|---|")
    for kind in chosen.kinds.split(","):
        row = suffer(kind, chosen.repeats, chosen.seed)
        rows.append(row)
        cells = ("fault", "repeats", "lost", "doubled", "drivers", "seconds_to_go_on", "longest")
        print("| " + " | ".join(str(row[cell]) for cell in cells) + " |", flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(rows, indent=1))
    return int(any(row["lost"] or row["doubled"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())

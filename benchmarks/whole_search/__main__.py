"""Wall time and epochs of a whole search to a hypervolume, beside what its users would write instead.

    python -m benchmarks.whole_search [--seeds 3] [--searches ours loop] [--set KEY=VALUE]... --json FILE

*loop* is Optuna's TPE in one process with a plain KD loop that runs the big model in every step; *nested*
is Ray Tune whose trials call ``TorchTrainer(...).fit()``. Both train whole trials of the experiment's
students, with rounding after training; neither knows cuts. Every search is a process of its own, alone on
the machine; its seconds include the start of Python and the training of the big model. The target is 98 %
of the hypervolume that the loop of the same seed ends with. The same command continues; finished searches
are read from FILE.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.whole_search.figures import Curve, figures, table
from benchmarks.whole_search.searches import OURS, run
from tkd_search.config.experiment_file import load_config
from tkd_search.files import write_json
from tkd_search.results.json_values import finite, from_plain

SEARCHES = (*OURS, "loop", "nested")


def main() -> None:
    """Run the benchmark, or with ``--alone`` one search of it."""
    options = _options()
    if options.alone:
        name, seed, started = options.alone
        config = load_config(options.config, options.set)
        write_json(options.json, asdict(run(name, config, int(seed), float(started))))
        return
    found = json.loads(options.json.read_text())["curves"] if options.json.exists() else []
    for seed in range(options.seeds):
        for name in options.searches:
            if not any((curve["name"], curve["seed"]) == (name, seed) for curve in found):
                found.append(_alone(name, seed, options))
                medians = figures([from_plain(Curve, curve) for curve in found])
                write_json(options.json, finite({"curves": found, **medians, **_ratios(medians)}))
                print("\n".join(table(medians)), flush=True)


def _ratios(medians: dict[str, dict[str, float]]) -> dict[str, float]:
    return {
        f"{name}_over_ours": of["over_ours"] for name, of in medians.items() if name in ("loop", "nested")
    }


def _alone(name: str, seed: int, options: argparse.Namespace) -> dict:
    """Run one search in a process of its own."""
    file = options.json.with_suffix(".part.json")
    changes = [word for change in options.set for word in ("--set", change)]
    words = [*changes, "--json", str(file), "--alone", name, str(seed), str(time.time())]
    if options.config:
        words += ["--config", options.config]
    subprocess.run([sys.executable, "-m", "benchmarks.whole_search", *words], check=True)
    plain: dict = json.loads(file.read_text())
    file.unlink()
    return plain


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", help="experiment; the digits without it")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="changes to the experiment"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--searches", nargs="+", choices=SEARCHES, default=["ours", "loop"])
    parser.add_argument(
        "--json", type=Path, required=True, metavar="FILE", help="figures; read where it exists"
    )
    parser.add_argument("--alone", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

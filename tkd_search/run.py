"""The main job: ``python -m tkd_search.run``."""

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

import tkd_search
from tkd_search.cli.option_types import PATH
from tkd_search.cli.terminal import raise_on_interrupt, replace_unprintable
from tkd_search.errors import UserError
from tkd_search.masking import masked

if TYPE_CHECKING:
    from tkd_search.config.experiment_file import Config

EPILOG = """\b
Examples:
  python -m tkd_search.run
  python -m tkd_search.run --config configs/mnist.yaml --set data.path=~/data/mnist
  python -m tkd_search.run --set method.k=3 --set search.trials=60 --name k3
  python -m tkd_search.run --config mine.yaml --dry-run
  python -m tkd_search.run --cluster clusters/aws.yaml --config configs/cifar10.yaml --set data.path=FOLDER
The same command resumes the search after a crash or Ctrl-C.
"""


@click.command(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config", "config_path", metavar="FILE", help="Experiment file  [default: configs/digits.yaml]"
)
@click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a leaf, e.g. method.k=3; repeatable.",
)
@click.option("--name", metavar="NAME", help="Name of the run; an existing run is resumed.")
@click.option("--output", metavar="FOLDER", help="Folder that holds the runs  [default: runs]")
@click.option(
    "--address",
    metavar="local|auto|ADDRESS",
    help="Ray to connect to  [default: local; on a cluster's head auto]",
)
@click.option("--cluster", metavar="FILE", type=PATH, help="Run on the cluster of this `ray up` file.")
@click.option(
    "--dry-run",
    is_flag=True,
    help="Show plan, space and estimated time; start nothing, write nothing but cached images.",
)
@click.version_option(tkd_search.__version__, prog_name="tkd_search")
def cli(
    config_path: str | None,
    overrides: tuple[str, ...],
    name: str | None,
    output: str | None,
    address: str | None,
    cluster: Path | None,
    dry_run: bool,
) -> None:
    """Search the Pareto front of small students of a big image classifier.

    Trains (or loads) the big model, computes its bank of features, searches students and their training,
    and writes the front to <output>/<name>/ and to MLflow.
    """
    from tkd_search.config.experiment_file import load_config

    given = [*overrides, *([f"output={json.dumps(output, ensure_ascii=False)}"] if output else [])]
    config = load_config(config_path, given, name=name)
    if cluster is not None and not dry_run:
        from tkd_search.cluster.launch import run_on_cluster

        sys.exit(run_on_cluster(cluster, config, resume_command(config)))
    sys.exit(start(config, address=address, cluster=cluster, dry_run=dry_run))


def start(
    config: "Config", *, address: str | None = None, cluster: Path | None = None, dry_run: bool = False
) -> int:
    """Plan, check and run one search; return the exit code of the process."""
    from tkd_search.api import finished_record, run_search
    from tkd_search.cli.console import Console
    from tkd_search.cli.dry_run import show_plan, show_summary

    console = Console()
    if dry_run:
        show_plan(config, console, address=address, cluster=cluster)
        return 0
    finished = finished_record(config)
    if finished is not None:
        console.front(finished, config.folder)
        return int(finished.found_nothing)
    show_summary(config, console)
    began = time.monotonic()
    try:
        with console.live():
            result = run_search(config, address, console, resume_command(config))
    except KeyboardInterrupt:  # before the first trial, or a second one while results are written
        console.note(f"interrupted; resume with: {resume_command(config)}")
        return 130
    console.front(result.record, result.folder, seconds=time.monotonic() - began)
    for note in result.notes:
        console.note(note)
    if result.record.status == "interrupted":
        console.note(f"interrupted; resume with: {resume_command(config)}")
        return 130
    return int(result.record.found_nothing)


def resume_command(config: "Config") -> str:
    """Return the shell command that starts this run again, secrets masked."""
    arguments = [] if __name__ != "__main__" else sys.argv[1:]
    if "--name" not in " ".join(arguments):
        arguments = [*arguments, "--name", config.name]
    return masked(shlex.join(["python", "-m", "tkd_search.run", *arguments]))


def main() -> None:
    """Run the command line; user errors end with one readable message and exit code 2."""
    raise_on_interrupt()
    replace_unprintable()
    try:
        cli.main(prog_name="python -m tkd_search.run", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except click.Abort:
        sys.exit(130)
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

"""``retrain``: train students of a front again on fresh seeds."""

import shlex
import sys

import click

from tkd_search.masking import masked

EPILOG = """\b
Examples:
  python -m tkd_search retrain runs/digits t0012 --seeds 5
  python -m tkd_search retrain runs/digits
The same command resumes; more --seeds or trials are added to the results.
"""


@click.command(epilog=EPILOG)
@click.argument("run")
@click.argument("trials", nargs=-1, metavar="[TRIAL]...")
@click.option(
    "--seeds", type=click.IntRange(1), default=3, show_default=True, help="Fresh seeds per student."
)
@click.option(
    "--address",
    metavar="local|auto|ADDRESS",
    help="Ray to connect to  [default: local; on a cluster's head auto]",
)
def command(run: str, trials: tuple[str, ...], seeds: int, address: str | None) -> int:
    """Train the students TRIAL of the front of RUN again on fresh seeds, and test each once.

    A search takes the best of many trials, so the winner's figure is partly luck. Without TRIAL all
    students of the front are trained again, with the search's images, big model and number of epochs.
    Writes retrained.md and retrained.csv to the run's folder and to MLflow; the front stays as it is.
    """
    from tkd_search.cli.console import Console
    from tkd_search.cli.terminal import raise_on_interrupt
    from tkd_search.comparison.mlflow_page import track_comparison
    from tkd_search.comparison.retrain_front import retrain_front
    from tkd_search.engine.run_dir.find_runs import run_folder
    from tkd_search.tracking.mlflow.writer_status import STATE_FOLDER, read_identity
    from tkd_search.tracking.uri import known_uri

    folder = run_folder(run)
    line = masked(shlex.join(["python", "-m", "tkd_search", *sys.argv[1:]]))
    console = Console()
    raise_on_interrupt()
    try:
        with console.live():
            made = retrain_front(folder, trials, seeds=seeds, address=address, progress=console, command=line)
    except KeyboardInterrupt:
        console.note(f"interrupted; resume with: {line}")
        return 130
    click.echo(made.page)
    for file in made.files:
        click.echo(str(file))
    # The search's own store, wherever this command is started.
    store = known_uri(read_identity(folder / STATE_FOLDER).target)
    name = f"{made.config.name}-retrained"
    if problem := track_comparison(made.config, name, made.rows, made.files, store):
        console.note(f"not in MLflow: {problem}")
    return 0

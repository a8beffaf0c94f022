"""``compare``: compare methods at equal search budgets, on fresh seeds."""

import json
import shlex
import sys

import click

from tkd_search.errors import UserError
from tkd_search.masking import masked

EPILOG = """\b
Examples:
  python -m tkd_search compare --config mine.yaml --methods ce,kd,dkd,tkd \\
      --set student.name=mobilenet_v2 --set student.width=0.25 --set student.format=int8
  python -m tkd_search compare --config mine.yaml --methods kd,tkd --trials 12 --seeds 5 \\
      --variant 'no-teachers:method.name=tkd;method.gamma=0;method.beta=0' \\
      --ablate 'uniform:method.selection=uniform' --ablate 'k1:method.k=1'
The same command resumes the comparison; more --seeds or contestants are added to its results.
A training whose loss diverges is kept as failed and listed below the table, because it would fail again
with its seed. To run it again, delete its file in <output>/NAME/comparison/.
"""


@click.command(epilog=EPILOG)
@click.option(
    "--config", "config_path", metavar="FILE", help="Experiment file  [default: configs/digits.yaml]"
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a leaf; repeatable.")
@click.option("--name", metavar="NAME", help="Name of the comparison  [default: compare-<name in the file>]")
@click.option("--output", metavar="FOLDER", help="Folder that holds the runs  [default: runs]")
@click.option("--methods", default="ce,kd,dkd,tkd", show_default=True, help="Methods, separated by commas.")
@click.option(
    "--variant",
    multiple=True,
    metavar="LABEL:K=V;…",
    help="Another contestant, with these leaves; repeatable.",
)
@click.option(
    "--ablate", multiple=True, metavar="LABEL:K=V;…", help="The winner of tkd with other leaves; repeatable."
)
@click.option("--base", default="kd", show_default=True, help="Contestant that the others are compared with.")
@click.option(
    "--trials", type=click.IntRange(1), default=12, show_default=True, help="Trials per contestant."
)
@click.option("--seeds", type=click.IntRange(1), default=5, show_default=True, help="Fresh seeds per winner.")
@click.option(
    "--address",
    metavar="local|auto|ADDRESS",
    help="Ray to connect to  [default: local; on a cluster's head auto]",
)
def command(
    config_path: str | None,
    overrides: tuple[str, ...],
    name: str | None,
    output: str | None,
    methods: str,
    variant: tuple[str, ...],
    ablate: tuple[str, ...],
    base: str,
    trials: int,
    seeds: int,
    address: str | None,
) -> int:
    """Compare methods at equal search budgets.

    Each contestant is searched with --trials trials in the experiment's space (a search named
    NAME-<contestant>). Its best student on validation data is trained again on --seeds fresh seeds, on
    fresh subsets where data.train_limit is set, and each of these students is tested once. Writes
    compare.md, compare.csv and teachers.csv to <output>/NAME/ and to MLflow. No leaf of
    student may be searched, because the contestants' students must be equal in size.
    """
    from tkd_search.cli.console import Console
    from tkd_search.cli.terminal import raise_on_interrupt
    from tkd_search.comparison.contestants import parse_contestants
    from tkd_search.comparison.mlflow_page import track_comparison
    from tkd_search.config.experiment_file import load_config

    given = [*overrides, *([f"output={json.dumps(output, ensure_ascii=False)}"] if output else [])]
    config = load_config(config_path, given, name=name)
    if name is None:
        config = load_config(config_path, given, name=f"compare-{config.name}")
    contestants = parse_contestants(_split(methods), variant, ablate)
    line = masked(shlex.join(["python", "-m", "tkd_search", *sys.argv[1:]]))
    console = Console()
    from tkd_search.comparison.run_comparison import run_comparison

    raise_on_interrupt()
    try:
        with console.live():
            result = run_comparison(
                config,
                contestants,
                trials=trials,
                seeds=seeds,
                base=base,
                address=address,
                progress=console,
                command=line,
            )
    except KeyboardInterrupt:
        console.note(f"interrupted; resume with: {line}")
        return 130
    click.echo(result.page)
    for file in result.files:
        click.echo(str(file))
    if problem := track_comparison(config, config.name, result.rows, result.files):
        console.note(f"not in MLflow: {problem}")
    return 0


def _split(methods: str) -> list[str]:
    names = [name.strip() for name in methods.split(",") if name.strip()]
    if not names:
        raise UserError("--methods", repr(methods), "names of methods, separated by commas, such as kd,tkd")
    return names

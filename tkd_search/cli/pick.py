"""``pick``: choose a student of a front by its validation figures."""

import json
import math
import shlex
from pathlib import Path

import click

from tkd_search.cli.option_types import MILLISECONDS, SHARE, SIZE
from tkd_search.engine.run_dir.find_runs import front_of, run_folder
from tkd_search.errors import UserError
from tkd_search.results.json_values import finite, to_plain
from tkd_search.results.records import FrontMember
from tkd_search.results.select import Constraints, nearest_miss, select
from tkd_search.units import human_bytes, milliseconds, percent

EPILOG = """\b
Examples:
  python -m tkd_search pick runs/digits --max-bytes 500kB
  python -m tkd_search pick runs/digits --min-accuracy 97% --max-latency 5ms
  cp $(python -m tkd_search pick runs/digits --knee --quiet)/model.safetensors .
"""


@click.command(epilog=EPILOG)
@click.argument("run")
@click.option("--max-bytes", type=SIZE, metavar="SIZE", help="Weights no larger than this, e.g. 500kB.")
@click.option("--min-accuracy", type=SHARE, metavar="SHARE", help="Validation accuracy at least this.")
@click.option("--max-ratio", type=SHARE, metavar="SHARE", help="At most this share of the big model's bytes.")
@click.option("--max-latency", type=MILLISECONDS, metavar="TIME", help="CPU latency at most this, e.g. 5ms.")
@click.option("--batch", default=1, show_default=True, help="Batch size of --max-latency.")
@click.option("--knee", is_flag=True, help="The student after which more cost adds little accuracy.")
@click.option("--quiet", is_flag=True, help="Print only the path.")
@click.option("--json", "as_json", is_flag=True, help="Print the member as JSON.")
@click.pass_context
def command(
    ctx: click.Context,
    run: str,
    max_bytes: float | None,
    min_accuracy: float | None,
    max_ratio: float | None,
    max_latency: float | None,
    batch: int,
    knee: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Choose a student from the front of RUN (a folder, or the name of a run).

    Limits can be combined. Of the students within all limits, the most accurate is chosen, with
    --min-accuracy the cheapest (search.cost). If there is none, the nearest miss is printed and the exit
    code is 1.
    """
    limits = Constraints(
        max_bytes=max_bytes,
        min_accuracy=min_accuracy,
        max_ratio=max_ratio,
        max_latency=max_latency,
        batch=batch,
    )
    if limits == Constraints(batch=batch) and not knee:
        raise click.UsageError(
            "give at least one of --max-bytes, --min-accuracy, --max-ratio, --max-latency and --knee"
        )
    folder = run_folder(run)
    front = front_of(folder)
    member = select(front, limits, knee=knee)
    if member is None:
        _print_miss(front, limits)
        ctx.exit(1)
        return
    place = _place(folder, member)
    if as_json:
        click.echo(json.dumps(finite({**to_plain(member), "path": str(place)})))
    elif quiet:
        click.echo(place)
    else:
        click.echo(f"{describe(member)}\n{place}")


def _place(folder: Path, member: FrontMember) -> Path:
    """Return a member's folder.

    Raises:
        UserError: it is gone.
    """
    place = folder / member.path
    if not (place / "model.safetensors").is_file():
        raise UserError(
            str(place),
            "no student: its folder was removed",
            "the folder that the search wrote",
            f"python -m tkd_search export {shlex.quote(str(folder))} {member.trial_id} writes it again",
        )
    return place


def describe(member: FrontMember) -> str:
    """Return a member's figures in one line."""
    latency = "".join(
        f", {milliseconds(value)} for batch {size}" for size, value in sorted(member.latency_ms.items())
    )
    return (
        f"{member.trial_id}  {member.student}: {human_bytes(member.bytes)} ({percent(member.ratio, 1)} "
        f"of F), validation {percent(member.val_accuracy)}, test {percent(member.test_accuracy)}{latency}"
    )


def _print_miss(front: tuple[FrontMember, ...], limits: Constraints) -> None:
    nearest = nearest_miss(front, limits)
    assert nearest is not None
    misses = "; ".join(_miss(name, nearest, limits) for name in limits.misses(nearest))
    click.echo(f"No student of the front fits. Nearest miss: {misses}.\n{describe(nearest)}", err=True)


def _miss(name: str, member: FrontMember, limits: Constraints) -> str:
    """Return in words how a member misses a limit."""
    if name == "max-bytes":
        return f"{human_bytes(member.bytes)} is above --max-bytes {human_bytes(limits.max_bytes or 0)}"
    if name == "max-ratio":
        return f"{percent(member.ratio)} is above --max-ratio {percent(limits.max_ratio)}"
    if name == "min-accuracy":
        return f"{percent(member.val_accuracy)} is below --min-accuracy {percent(limits.min_accuracy)}"
    latency, limit = (
        limits.latency(member),
        f"--max-latency {limits.max_latency:g} ms for batch {limits.batch}",
    )
    return f"{latency:.3g} ms is above {limit}" if math.isfinite(latency) else f"not measured: {limit}"

"""``export``: write ONNX, int8 and the model card of a search's students."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tkd_search.cli.option_types import PATH, TRUST
from tkd_search.engine.run_dir.find_runs import CONFIG_FILE, front_of, member_of, record_of, run_folder
from tkd_search.errors import UserError
from tkd_search.results.records import FrontMember
from tkd_search.tracking.mlflow.republish import publish_member
from tkd_search.units import human_bytes

if TYPE_CHECKING:
    from tkd_search.data import DataBundle
    from tkd_search.export import Exported
    from tkd_search.formats import Format

EPILOG = """\b
Examples:
  python -m tkd_search export runs/digits                 every student of the front
  python -m tkd_search export runs/digits t0012 --format int8 --output ship
"""


@click.command(epilog=EPILOG)
@click.argument("run")
@click.argument("trial", required=False)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["fp32", "fp16", "int8", "int4"]),
    help="Convert to this format, without training.  [default: the student's own]",
)
@click.option(
    "--output",
    type=PATH,
    metavar="PATH",
    help="Also write the student in this format to this folder, for load and evaluate.",
)
@click.option(
    "--data-path", metavar="FOLDER", help="Folder of the data set, if it was moved since the search."
)
@click.option("--no-mlflow", is_flag=True, help="Add nothing to the tracking store.")
@TRUST
def command(
    run: str,
    trial: str | None,
    format_: "Format | None",
    output: Path | None,
    data_path: str | None,
    no_mlflow: bool,
    trust: bool,
) -> None:
    """Export TRIAL of RUN, or every student of its front.

    Compares the student's model.onnx with its weights on real images and scores it on validation and test.
    With --format also writes model.FORMAT.safetensors and model.FORMAT.onnx. Adds the files to the student's
    run in MLflow. A student whose folder was removed is written again from its trial.
    """
    from tkd_search.export import copy_student, export_student

    folder = run_folder(run)
    members = (member_of(folder, trial),) if trial else front_of(folder)
    data = data_of(folder, data_path)
    for member in members:
        if not (folder / member.path / "model.safetensors").is_file():
            _write_again(folder, member, data)
        made = export_student(folder / member.path, data, format=format_, trust=trust)
        _print(member.trial_id, made)
        if output is not None:
            target = output / member.trial_id if trial is None else output
            copy_student(made, target)
            click.echo(f"  copied to {target}")
        if not no_mlflow and (problem := publish_member(folder, member, made.files)):
            click.echo(f"  not added to MLflow: {problem}", err=True)


def _write_again(folder: Path, member: FrontMember, data: "DataBundle") -> None:
    """Write a student's folder from the weights of its trial.

    Raises:
        UserError: the trial's weights are gone too.
    """
    from tkd_search.config.experiment_file import stored_config
    from tkd_search.config.resolve import resolve
    from tkd_search.engine.finalize import ship_student
    from tkd_search.engine.run_dir.run_dir import RunDir

    config, record = stored_config(folder), record_of(folder)
    trials = str(folder / "trials") if config.storage is None else RunDir.of(config).trials
    try:
        assert record is not None
        ship_student(config, resolve(config, member.config), folder, trials, member, data, record.big_model)
    except (AssertionError, OSError) as error:
        raise UserError(
            str(folder / member.path),
            f"no student, and its trial in {trials} cannot be read ({error})",
            "one of the two",
            "restore it, or search again under another --name",
        ) from error


def data_of(folder: Path, path: str | None = None) -> "DataBundle":
    """Read the data set of a search again.

    Raises:
        UserError: the run has no configuration, or its data are missing or have changed.
    """
    from dataclasses import replace

    from tkd_search.api import check_same_data
    from tkd_search.config.experiment_file import stored_config
    from tkd_search.data import load_data

    file = folder / CONFIG_FILE
    if not file.exists():
        raise UserError(str(file), "no such file", "the configuration that a search writes into its folder")
    settings = stored_config(folder).settings().data
    data = load_data(settings if path is None else replace(settings, path=path))
    check_same_data(folder, data.digest)
    return data


def _print(trial_id: str, made: "Exported") -> None:
    click.echo(
        f"{trial_id}  {made.folder}\n"
        f"  {made.format}: weights {human_bytes(made.bytes)}, ONNX {human_bytes(made.onnx_bytes)}; equal "
        f"predictions on {made.verified.same} of {made.verified.samples} images; ONNX on validation "
        f"{made.validation.figure(made.metric):.2%}, on test {made.test.figure(made.metric):.2%}"
    )

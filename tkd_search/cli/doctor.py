"""``doctor``: check that this machine or cluster can run a search; one line a check, with its remedy."""

import os
from collections.abc import Iterator
from pathlib import Path

import click

from tkd_search.cli.option_types import PATH
from tkd_search.cluster.node_checks import (
    Check,
    check_gpus,
    check_nodes,
    check_room,
    check_storage,
    check_token,
    check_tracking,
    check_versions,
    driver_lists_gpu,
)
from tkd_search.cluster.node_probe import probe_all_nodes, probe_node
from tkd_search.engine.host_folders import provide_folders
from tkd_search.engine.host_limits import core_share, describe_limits, host_limits, shortages
from tkd_search.errors import UserError
from tkd_search.storage.object_store import storage_uri

EPILOG = """\b
Examples:
  python -m tkd_search doctor
  python -m tkd_search doctor --config configs/cifar10.yaml
  python -m tkd_search doctor --cluster clusters/aws.yaml
The exit code is 1 if a line says `wrong`; lines with `warn` are advice.
"""


@click.command(epilog=EPILOG)
@click.option(
    "--config", "config_path", metavar="FILE", help="Experiment that gives storage, tracking and room."
)
@click.option("--storage", metavar="URI", help="Place of data and checkpoints, e.g. s3://bucket/tkd.")
@click.option("--tracking", metavar="URI", help="MLflow's tracking URI.")
@click.option("--output", type=PATH, help="Folder that holds the runs.  [default: the experiment's, or runs]")
@click.option("--address", default="local", show_default=True, help="local, auto, or an address of Ray.")
@click.option("--cluster", metavar="FILE", type=PATH, help="Check the cluster of this `ray up` file.")
@click.pass_context
def command(
    ctx: click.Context,
    config_path: str | None,
    storage: str | None,
    tracking: str | None,
    output: Path | None,
    address: str,
    cluster: Path | None,
) -> None:
    """Check versions, GPUs, Ray, storage, tracking and disk space, and print how to correct each fault."""
    if cluster is not None:
        from tkd_search.cluster.doctor_remote import examine_cluster

        ctx.exit(examine_cluster(cluster, click.echo))
    need = 0
    if config_path is not None:
        storage_set, tracking_set, output_set, need = _of_config(config_path)
        storage, tracking, output = storage or storage_set, tracking or tracking_set, output or output_set
    if storage:
        storage = storage_uri(storage)
    wrong = 0
    for check in _checks(
        storage or "", tracking or _default_tracking(), output or Path("runs"), address, need
    ):
        click.echo(check.line())
        wrong += check.state == "wrong"
    ctx.exit(1 if wrong else 0)


def _checks(storage: str, tracking: str, output: Path, address: str, need: int) -> Iterator[Check]:
    yield from check_versions()
    here = probe_node("", str(output))
    yield check_gpus(here.gpus, here.torch, driver_lists_gpu())
    yield _check_folders()
    if address == "local":
        yield from _check_limits()
    yield check_token(os.environ, address)
    if address == "local":
        if storage:
            yield check_storage(storage)
    else:
        yield from _joined(address, storage, output)
    yield check_tracking(tracking, os.environ)
    yield from check_room(output, here.shared_memory, need)


def _check_folders() -> Check:
    """Check that Ray can use this machine's home and temporary folder; a search replaces those it cannot."""
    replaced = provide_folders()
    return Check("folders", "warn" if replaced else "ok", "; ".join(replaced) or "home and temporary folder")


def _check_limits() -> Iterator[Check]:
    """Check that this machine's memory, processes and open files allow a search with one trial at a time."""
    limits = host_limits()
    for short in (found := shortages(limits)):
        yield Check(short.name, "wrong", f"{short.found}, needed {short.needed}", short.fix)
    if not found:
        slow = core_share() < 1
        fix = "a search is slow here: give the container a whole core (docker run --cpus)" if slow else ""
        yield Check("limits", "warn" if slow else "ok", describe_limits(limits), fix)


def _joined(address: str, storage: str, output: Path) -> Iterator[Check]:
    from tkd_search.engine.ray_session import ray_session

    try:
        with ray_session(address):
            yield from check_nodes(probe_all_nodes(storage, str(output)), storage)
    except UserError as error:
        yield Check("Ray", "wrong", error.found, error.hint)


def _default_tracking() -> str:
    return os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"


def _of_config(path: str) -> tuple[str, str, Path, int]:
    """Return storage, tracking URI, folder of the runs and bytes of the bank of an experiment."""
    from tkd_search.config.experiment_file import load_config
    from tkd_search.config.resolve import bank_settings
    from tkd_search.data import fixed_views, load_data

    config = load_config(path)
    settings = config.settings()
    data = load_data(settings.data)
    rows = len(data.train.labels) * fixed_views(settings.data)
    # The bank holds up to 15 stages, pooled and on a grid, and the logits, in two bytes a value.
    bank = bank_settings(config)
    features = (16 + 15 * bank.grid**2) * bank.width if bank.taps else 0
    need = rows * (features + data.num_classes) * 2
    return config.storage or "", settings.tracking.uri or "", config.folder.parent, need

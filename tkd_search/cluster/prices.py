"""What hours on a cluster cost, from the dated table of :mod:`tkd_search.cluster.instance_types`."""

from dataclasses import dataclass
from pathlib import Path

from tkd_search.cluster.cluster_file import NodeType, read_cluster_file
from tkd_search.cluster.instance_types import INSTANCES, PRICES_DATE


@dataclass(frozen=True, kw_only=True)
class CostEstimate:
    """Dollars for a number of hours.

    Attributes:
        hours: how long, in hours.
        workers: how many workers are counted.
        usd: head and workers together over those hours.
        usd_per_hour: the same for one hour.
        date: month of the price table.
        lines: one line of arithmetic for each kind of node.
    """

    hours: float
    workers: int
    usd: float
    usd_per_hour: float
    date: str
    lines: tuple[str, ...]


def price(cluster_yaml: Path, hours: float, workers: int | None = None) -> CostEstimate | None:
    """Price some hours.

    Args:
        cluster_yaml: the cluster file.
        hours: expected duration in hours, > 0.
        workers: workers that will be busy; default, and limit, is the file's ``max_workers``. The first
            worker type is priced.

    Returns:
        None where machines have no list price here: on-prem, Kubernetes, or an instance type that the
        table lacks.

    Raises:
        UserError: where the file cannot be read.
    """
    file = read_cluster_file(cluster_yaml)
    if not file.workers or any(n.instance not in INSTANCES for n in (file.head, file.workers[0])):
        return None
    count = min(workers if workers is not None else file.max_workers, file.max_workers)
    head, worker = _hourly(file.head), _hourly(file.workers[0])
    per_hour = head + count * worker
    return CostEstimate(
        hours=hours,
        workers=count,
        usd=per_hour * hours,
        usd_per_hour=per_hour,
        date=PRICES_DATE,
        lines=(_line(1, file.head, head, hours), _line(count, file.workers[0], worker, hours)),
    )


def estimate_cost(cluster_yaml: Path, hours: float, workers: int | None = None) -> tuple[str, ...]:
    """The lines that ``--dry-run --cluster`` prints: :func:`price` in words, or why there is none.

    Raises:
        UserError: where the file cannot be read.
    """
    found = price(cluster_yaml, hours, workers)
    if found is None:
        return ("estimated cost: unknown, no list price for the machines of this cluster file",)
    total = f"estimated cost: ${found.usd:.2f} (${found.usd_per_hour:.2f} an hour)"
    return (*found.lines, f"{total}, unchecked prices of about {found.date}; spot prices vary")


def _hourly(node: NodeType) -> float:
    price = INSTANCES[node.instance]
    return price.spot if node.spot else price.on_demand


def _line(count: int, node: NodeType, hourly: float, hours: float) -> str:
    kind = "spot, typically" if node.spot else "on demand"
    return (
        f"{count} × {node.instance} ({kind} ${hourly:.3f}/h) × {hours:.2g} h = ${count * hourly * hours:.2f}"
    )

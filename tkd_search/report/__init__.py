"""Writes the Pareto report of one or several searches: ``pareto.csv``, ``pareto.html``, ``pareto.png``."""

from collections.abc import Sequence
from pathlib import Path

from tkd_search.files import disk_full_errors
from tkd_search.results.records import SearchRecord
from tkd_search.tracking.mlflow.writer_status import STATE_FOLDER


def write_report(records: SearchRecord | Sequence[SearchRecord], folder: Path) -> tuple[Path, ...]:
    """Write the three files into ``folder``, replacing earlier ones, and return their paths.

    Args:
        records: one search, or several that are drawn side by side. A search without a finished epoch gives
            files with an empty front.
        folder: created if missing.

    Raises:
        DiskFullError: no room for one of them.
        UserError: the searches minimise different costs; nothing is written.
    """
    from tkd_search.report.figures import common_cost
    from tkd_search.report.front_csv import write_table
    from tkd_search.report.front_png import write_print
    from tkd_search.report.html_page import write_page

    searches = (records,) if isinstance(records, SearchRecord) else tuple(records)
    common_cost(searches)
    with disk_full_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    table = write_table(searches, folder / "pareto.csv")
    page = write_page(searches, folder / "pareto.html", folder / STATE_FOLDER)
    return table, write_print(searches, folder / "pareto.png"), page  # the picture last: it may fail


__all__ = ["write_report"]

"""What the terminal shows of a search that has ended."""

import io

import rich.console

from tests.tracking.synthetic import synthetic_search, taught_by
from tkd_search.console import Console


def shown(record, folder):
    """The lines below each other that a log gets."""
    out = io.StringIO()
    Console(rich.console.Console(file=out, width=160)).front(record, folder)
    return out.getvalue().splitlines()


def test_the_table_has_a_method_also_where_it_was_not_searched(tmp_path):
    record = synthetic_search(14)
    methods = [line.split("│")[3].strip() for line in shown(record, tmp_path) if line.startswith("│")]
    assert methods == [member.config["method.name"] for member in record.front]
    fixed = [line for line in shown(taught_by(record, "dkd"), tmp_path) if line.startswith("│")]
    assert [line.split("│")[3].strip() for line in fixed] == ["dkd"] * len(record.front)

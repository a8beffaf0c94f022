"""Pictures are drawn whatever the environment says about matplotlib (case 1, kohya_ss#2521)."""

import os
import subprocess
import sys

import pytest

from tests.tracking.synthetic import synthetic_search
from tkd_search.report import write_report

DRAW = """
import sys
from pathlib import Path
from tests.tracking.synthetic import synthetic_search
from tkd_search.report import write_report
write_report(synthetic_search(14), Path(sys.argv[1]))
"""
USERS_FILE = "text.usetex: true\nbackend: tkagg\nfigure.dpi: 17\nnonsense: 3\nsavefig.bbox: tight\n"


def test_a_notebooks_backend_and_the_users_matplotlibrc_change_nothing(tmp_path):
    (tmp_path / "matplotlibrc").write_text(USERS_FILE, encoding="utf-8")
    foreign = {
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "MATPLOTLIBRC": str(tmp_path / "matplotlibrc"),
    }
    command = [sys.executable, "-c", DRAW, str(tmp_path)]
    done = subprocess.run(command, env={**os.environ, **foreign}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    write_report(synthetic_search(14), tmp_path / "plain")
    assert (tmp_path / "pareto.png").read_bytes() == (tmp_path / "plain" / "pareto.png").read_bytes()


def test_a_picture_that_fails_stops_neither_table_nor_page(tmp_path):
    (tmp_path / "pareto.png").mkdir()
    with pytest.raises(OSError, match=r"pareto\.png"):
        write_report(synthetic_search(14), tmp_path)
    assert {"pareto.csv", "pareto.html"} <= {path.name for path in tmp_path.iterdir()}

"""The scale benchmark in small: it runs, with storage, and counts what it should."""

import json

from benchmarks import scale


def test_small_scale_run(tmp_path, capsys):
    out = tmp_path / "scale.json"
    scale.main(["--trials", "120", "--slots", "16", "--json", str(out)])
    figures = json.loads(out.read_text())
    assert (figures["trials"], figures["slots"], figures["sampler"]) == (120, 16, "qmc")
    assert figures["decide_last"] > 0
    assert figures["journal_mb"] > 0
    assert "at the end" in capsys.readouterr().out

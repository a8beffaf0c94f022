"""The benchmark of cuts on few digits."""

import json

from benchmarks.cuts import main

QUICK = ["--images", "200", "--epochs", "1", "--big-epochs", "2", "--big-width", "0.1", "--ratios", "0.3"]


def test_every_start_has_a_figure_and_the_command_goes_on(tmp_path, capsys):
    options = ["--json", str(tmp_path / "cuts.json"), *QUICK]
    main([*options, "--seeds", "1", "--starts", "cut"])
    main([*options, "--seeds", "1"])
    figures = json.loads((tmp_path / "cuts.json").read_text())["figures"]
    assert [row["start"] for row in figures] == ["cut", "random channels", "random weights", "mobilenet_v2"]
    sizes = [row["bytes"] for row in figures]
    assert sizes[0] == sizes[1] == sizes[2], "the same form"
    assert "ratio 0.3, cut:" in capsys.readouterr().out

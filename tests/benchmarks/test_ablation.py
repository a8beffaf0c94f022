"""The benchmark of a student's parts on few digits."""

import json

from benchmarks.ablation import CONTESTANTS, main

EXPERIMENT = """
data: {name: digits, train_limit: 200}
big_model: {name: alexnet, width: 0.1, epochs: 2}
student: {name: cut, width: 0.5, format: {choice: [int8, int4]}}
method: {name: kd}
training: {epochs: 1}
search: {enqueue: [{student.format: int4}]}
"""


def test_every_contestant_has_a_figure_and_the_command_goes_on(tmp_path, capsys):
    (tmp_path / "cut.yaml").write_text(EXPERIMENT)
    options = [
        "--json",
        str(tmp_path / "figures.json"),
        "--config",
        str(tmp_path / "cut.yaml"),
        "--seeds",
        "1",
    ]
    main([*options, "--contestants", "student"])
    main(options)
    figures = json.loads((tmp_path / "figures.json").read_text())["figures"]
    assert [row["contestant"] for row in figures] == list(CONTESTANTS)
    size = {row["contestant"]: row["bytes"] for row in figures}
    assert size["student"] == size["random channels"] == size["random weights"], "the same form"
    assert all(size[name] <= size["student"] for name in CONTESTANTS if name != "chain")
    assert "the cut gains" in capsys.readouterr().out

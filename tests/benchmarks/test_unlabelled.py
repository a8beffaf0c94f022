"""The benchmark of unlabelled images on few digits."""

import json

from benchmarks.unlabelled import main

QUICK = ["--images", "300", "--labels", "40", "--epochs", "2", "--big-epochs", "2", "--big-width", "0.1"]
STUDENT = ["--student", "plain_cnn", "--seeds", "1"]


def test_the_three_have_equal_steps_and_the_command_goes_on(tmp_path, capsys):
    options = ["--json", str(tmp_path / "unlabelled.json"), *QUICK, *STUDENT]
    main([*options, "--methods", "kd"])
    main(options)
    figures = json.loads((tmp_path / "unlabelled.json").read_text())["figures"]
    assert [(row["method"], row["arm"]) for row in figures] == [
        (method, arm) for method in ("kd", "tkd") for arm in ("alone", "unlabelled", "all labels")
    ]
    assert {row["steps"] for row in figures} == {6}
    assert len({row["accuracy"] for row in figures}) > 1
    assert "tkd: " in capsys.readouterr().out.splitlines()[-1]

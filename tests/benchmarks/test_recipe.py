"""The benchmark of recipes on few digits."""

import json

from benchmarks.recipe import RECIPES, main

QUICK = ["--images", "200", "--epochs", "1", "--big-epochs", "1", "--big-width", "0.1", "--seeds", "1"]


def test_every_recipe_has_a_figure_and_the_command_goes_on(tmp_path, capsys):
    options = ["--json", str(tmp_path / "recipe.json"), *QUICK, "--width", "0.1"]
    main([*options, "--methods", "kd", "--recipes", "4 views"])
    main([*options, "--methods", "kd"])
    main([*options, "--methods", "tkd", "--recipes", "32 views", "fresh, mixup"])
    figures = json.loads((tmp_path / "recipe.json").read_text())["figures"]
    assert [row["case"]["recipe"] for row in figures] == [*RECIPES, "fresh, mixup"]
    by_recipe = {row["case"]["recipe"]: row for row in figures}
    assert by_recipe["32 views"]["bank_bytes"] == 8 * by_recipe["4 views"]["bank_bytes"] == 32 * 200 * 20
    assert by_recipe["fresh"]["bank_bytes"] == 0
    assert "| 200 | 1 | tkd | fresh, mixup |" in capsys.readouterr().out

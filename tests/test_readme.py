"""The README and the documentation match the code: commands parse, YAML blocks are experiments."""

import re
import shlex
from dataclasses import replace
from pathlib import Path

import click
import pytest
import yaml

from tests.commands_page import ENTRY_POINTS, commands_page
from tkd_search.cli.settings import settings_page
from tkd_search.config.experiment_file import parse_config
from tkd_search.models import build_student

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of the languages."""
    found = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [text for language, text in found if language in languages]


def commands(page: Path) -> list[str]:
    """Command lines of a page: lines of its shell blocks, and inline code that begins with ``python -m``.

    A command that ends with an ellipsis is abbreviated and left out.
    """
    lines = [
        line.partition(" #")[0].strip()
        for text in blocks(page, "sh", "bash")
        for line in text.replace("\\\n", " ").splitlines()
    ]
    lines += re.findall(r"`(python -m [^`\n]+)`", page.read_text())
    return [line for line in lines if "python -m " in line and "…" not in line and "COMMAND" not in line]


def config_commands(file: Path) -> list[str]:
    """Command lines in the comment at the top of an experiment file."""
    header = "\n".join(line.lstrip("# ") for line in file.read_text().split("\nname:")[0].splitlines())
    lines = header.replace("\\\n", " ").splitlines()
    return [line[line.index("python -m ") :] for line in lines if "python -m " in line]


COMMANDS = sorted(
    {line for page in PAGES for line in commands(page)}
    | {line for file in CONFIGS for line in config_commands(file)}
)
EXPERIMENTS = [(page.name, text) for page in PAGES for text in blocks(page, "yaml")]


@pytest.mark.parametrize(("page", "text"), EXPERIMENTS)
def test_a_yaml_block_is_an_experiment_whose_students_can_be_built(page, text):
    config = parse_config({"name": "mine", **yaml.safe_load(text)})
    for name in config.space.leaves["student.name"].options:
        settings = config.settings(
            {**config.space.at([0.5] * len(config.space.leaves)), "student.name": name}
        )
        big_model = replace(settings.big_models[0], weights=None)  # the file is the reader's
        build_student(settings.student, classes=10, channels=3, size=32, big_model=big_model)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_documented_command_parses(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line[line.index("python -m ") :].partition(" > ")[0])[2:]
    module, arguments = words[0], words[1:]
    if module.startswith(("benchmarks.", "tests.")):
        file = ROOT / module.replace(".", "/")
        assert file.with_suffix(".py").exists() or (file / "__main__.py").exists()
        return
    command, context = ENTRY_POINTS[module], None
    while isinstance(command, click.Group):
        context = command.make_context(module, [], context, resilient_parsing=True)
        name, command, arguments = command.resolve_command(context, arguments)
        assert name
    command.make_context(command.name, arguments, context, resilient_parsing=False)


def test_the_readme_has_commands_and_an_experiment():
    assert len(commands(README)) > 8
    assert len(blocks(README, "yaml")) == 1
    assert len(README.read_text().splitlines()) <= 150


def test_the_page_of_settings_is_generated():
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), (
        "run: python -m tkd_search settings > docs/settings.md"
    )


def test_the_page_of_commands_is_generated():
    assert (ROOT / "docs" / "commands.md").read_text() == commands_page(), (
        "run: python -m tests.commands_page > docs/commands.md"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_leads_to_a_file(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_an_experiment_file_begins_with_what_to_expect(file):
    header = file.read_text().split("\nname:")[0]
    for word in ("Reproduces:", "Command:", "Time:", "Expected:"):
        assert f"\n# {word}" in header

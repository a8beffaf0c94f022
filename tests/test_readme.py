"""What the README shows must be right: its configuration is one, its commands have such options."""

import re
import shlex
from pathlib import Path

import click
import pytest
import yaml

from tkd_search.__main__ import cli as group
from tkd_search.cli.settings import settings_page
from tkd_search.config.experiment_file import parse_config
from tkd_search.models import build_student
from tkd_search.run import cli as run

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line.partition(" #")[0].strip()
    for language, text in BLOCKS
    if language in ("sh", "bash")
    for line in text.replace("\\\n", " ").splitlines()
    if "-m tkd_search" in line and "-m tkd_search.cluster" not in line
]


def test_the_configuration_is_one_and_its_students_can_be_built():
    (text,) = [text for language, text in BLOCKS if language == "yaml"]
    config = parse_config({"name": "mine", **yaml.safe_load(text)})
    names = config.space.leaves["student.name"].options
    for name in names:
        settings = config.settings(
            {**config.space.at([0.5] * len(config.space.leaves)), "student.name": name}
        )
        build_student(settings.student, classes=10, channels=3, size=32)


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_parses(line, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = shlex.split(line[line.index("-m tkd_search") :])[1:]
    command: click.Command = run if words[0] == "tkd_search.run" else group
    arguments = words[1:]
    while isinstance(command, click.Group):
        with click.Context(command) as context:
            name, command, arguments = command.resolve_command(context, arguments)
        assert name
    command.make_context(command.name, arguments)


def test_the_page_of_settings_is_what_the_settings_say():
    assert (ROOT / "docs" / "settings.md").read_text() == settings_page(), (
        "python -m tkd_search settings > docs/settings.md"
    )


def test_there_are_commands():
    assert len(COMMANDS) > 8

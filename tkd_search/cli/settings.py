"""``settings``: print every leaf of an experiment's file, from the declarations of the settings."""

import dataclasses
import typing
from typing import Any

import click

from tkd_search.config.sections import SECTIONS, RunSettings
from tkd_search.fields import bounds_text, type_words

HEADER = """# Settings

Every leaf of an experiment's file: `python -m tkd_search settings` prints this page. A leaf marked *searched*
may hold a distribution in place of a value: `{float: [0.1, 1.0], log: true}`, `{int: [1, 10]}` or
`{choice: [swish, prelu]}`; in a search it is suggested only where its condition holds. F is the big model;
symbols in brackets are those of [the method](method.md). Where the default is –, the meaning names it, or
there is none.
"""


@click.command()
def command() -> None:
    """Print every setting with its default, range and meaning, as Markdown."""
    click.echo(settings_page(), nl=False)


def settings_page() -> str:
    """Return the page ``docs/settings.md``."""
    tables = [_table("At the top of the file", "", RunSettings)]
    tables += [_table(f"`{name}`", f"{name}.", section) for name, section in SECTIONS.items()]
    return "\n".join([HEADER, *tables])


def _table(title: str, prefix: str, section: type) -> str:
    head = ["| leaf | default | allowed | meaning |", "|---|---|---|---|"]
    kinds = typing.get_type_hints(section)
    rows = [
        f"| `{prefix}{field.name}` | {_default(field)} | {_allowed(field, kinds[field.name])} "
        f"| {_meaning(field)} |"
        for field in dataclasses.fields(section)
    ]
    return "\n".join([f"## {title}\n", *head, *rows, ""])


def _default(field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"`{field.default_factory()!r}`"
    if field.default is dataclasses.MISSING:
        return "required"
    value = field.default
    if value is None or value == ():
        return "–"
    if isinstance(value, bool):
        return str(value).lower()
    return f"`{', '.join(value) if isinstance(value, tuple) else value}`"


def _allowed(field: "dataclasses.Field[Any]", kind: Any) -> str:
    bounds = bounds_text(field.metadata)
    names = ", ".join(type_words(kind, quote="`"))
    return f"{names}, {bounds}" if bounds else names


def _meaning(field: "dataclasses.Field[Any]") -> str:
    meaning = str(field.metadata["doc"])
    conditions = [
        f"{key} is {' or '.join(map(str, values))}" for key, values in field.metadata.get("when", {}).items()
    ]
    if conditions:
        meaning += f" (where {', '.join(conditions)})"
    return meaning.replace("|", "\\|") + (" – *searched*" if field.metadata["searchable"] else "")

"""Names of classes and of parts, as people and systems write them."""

import unicodedata
from collections import defaultdict
from collections.abc import Iterable

from tkd_search.errors import printable

_PARTS = {
    "train": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}
PART_NAMES = tuple(_PARTS)
"""Names of parts as the documentation spells them."""
_NAMED = 3


def class_name(written: str) -> str:
    """Return the name of the class that a folder or a label names: in Unicode form NFC, no spaces around it.

    macOS stores ``é`` as two characters, other systems as one; tables often have spaces after a label.
    """
    return unicodedata.normalize("NFC", written).strip() or written


def part_name(written: str) -> str | None:
    """Return ``train``, ``validation`` or ``test`` for a folder or a split of such a name, None for another.

    Upper case and spaces around do not matter; ``training`` and ``testing`` are known too.
    """
    name = written.strip().lower()
    return _PARTS.get(name) or _PARTS.get(name.removesuffix("ing"))


def alike_note(classes: Iterable[str]) -> tuple[str, ...]:
    """Return a note on classes whose names differ only in upper and lower case; none without any."""
    groups = defaultdict[str, list[str]](list)
    for name in classes:
        groups[name.casefold()].append(name)
    alike = [" and ".join(names) for names in groups.values() if len(names) > 1]
    shown = printable(", ".join(alike[:_NAMED])) + (" …" if len(alike) > _NAMED else "")
    return (f"data: classes whose names differ only in upper and lower case: {shown}",) if alike else ()

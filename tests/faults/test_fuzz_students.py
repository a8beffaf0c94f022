"""Students' folders with changed files: ``load`` returns a network or raises a readable error."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import tkd_search
from tests.export.conftest import write_cut
from tkd_search.errors import UserError

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
MANY = settings(
    max_examples=1000 if os.environ.get("TKD_CI_ALL") else 150,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
values = st.sampled_from(
    [
        None,
        True,
        0,
        -1,
        1,
        7,
        0.5,
        float("nan"),
        1e300,
        10**20,
        "",
        "x",
        "cut",
        "a.b:c",
        "\0",
        [],
        {},
        [1],
        {"a": 1},
    ]
) | st.text(max_size=4)


@pytest.fixture(scope="module")
def cut(tmp_path_factory, digits):
    """The folder of an untrained int8 student cut from a small AlexNet."""
    return write_cut(tmp_path_factory.mktemp("cut") / "0001", digits)


def leaves(tree, path=()):
    """Yield the path of every node below the root."""
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from leaves(value, (*path, key))


@st.composite
def changes(draw):
    """Draw a change of a JSON tree: what to do at one of its nodes."""
    return draw(st.integers(0, 10**6)), draw(st.sampled_from(["replace", "remove", "add"])), draw(values)


def changed(tree, change):
    """Return a changed copy of a JSON tree."""
    number, kind, value = change
    tree = copy.deepcopy(tree)
    every = list(leaves(tree))
    path = every[number % len(every)]
    node = tree
    for key in path[:-1]:
        node = node[key]
    if kind == "replace":
        node[path[-1]] = value
    elif kind == "remove":
        del node[path[-1]]
    elif isinstance(node, dict):
        node["unknown"] = value
    else:
        node.append(value)
    return tree


def check(folder: Path) -> None:
    try:
        model, transform = tkd_search.load(folder)
    except UserError:
        return
    assert isinstance(model, nn.Module)
    assert callable(transform)


@pytest.mark.parametrize("name", ["student.json", "cut.json"])
@MANY
@given(data=st.data())
def test_a_changed_description_is_loaded_or_refused(cut, name, data):
    folder = cut.parent / "changed"
    shutil.copytree(cut, folder, dirs_exist_ok=True)
    tree = json.loads((cut / name).read_text())
    for change in data.draw(st.lists(changes(), min_size=1, max_size=3)):
        tree = changed(tree, change) if tree else tree
    (folder / name).write_text(json.dumps(tree))
    check(folder)


@MANY
@given(
    name=st.sampled_from(["student.json", "cut.json", "model.safetensors"]),
    place=st.floats(0, 1),
    count=st.integers(0, 40),
    new=st.binary(max_size=40),
    unchecked=st.booleans(),
)
def test_changed_bytes_are_loaded_or_refused(cut, name, place, count, new, unchecked):
    folder = cut.parent / "changed"
    shutil.copytree(cut, folder, dirs_exist_ok=True)
    old = (cut / name).read_bytes()
    at = int(place * len(old))
    if unchecked:  # without the hash of the weights, which would refuse every change of them
        plain = json.loads((cut / "student.json").read_text())
        del plain["provenance"]["weights_sha256"]
        (folder / "student.json").write_text(json.dumps(plain))
    (folder / name).write_bytes(old[:at] + new + old[at + count :])
    check(folder)

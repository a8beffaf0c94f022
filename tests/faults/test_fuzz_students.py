"""Students' folders with changed files: ``load`` returns a network or raises a readable error."""

import copy
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import tkd_search
from tests.export.conftest import BIG
from tkd_search.data import plain_batches
from tkd_search.errors import UserError
from tkd_search.export import write_student
from tkd_search.export.shipping import calibrated, write_files
from tkd_search.models.build import build_big_model
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.models.student_architecture import cut_student
from tkd_search.results.records import FrontMember

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
    folder = tmp_path_factory.mktemp("cut") / "0001"
    folder.mkdir()
    torch.set_num_threads(1)
    big_settings, architecture = (
        BigModelSettings(width=0.2),
        StudentSettings(name="cut", width=0.3, format="int8"),
    )
    shape = {"classes": 10, "channels": 1, "size": 8}
    big_model = build_big_model(big_settings, **shape)
    batches = list(plain_batches(digits.validation, mean=digits.mean, std=digits.std, batch_size=64))
    student, record = cut_student(architecture, big_model, big_settings, **shape, batches=batches[:1], seed=0)
    write_files(calibrated(student.model.eval(), "int8", [batches[0][0]]), "int8", (1, 8, 8), folder)
    (folder / "cut.json").write_text(json.dumps(record))
    size = (folder / "model.safetensors").stat().st_size
    write_student(
        folder,
        member(size),
        architecture=architecture,
        big_model_settings=big_settings,
        method="kd",
        data=digits,
        big_model=BIG,
        search="digits",
        seed=0,
        metric="accuracy",
    )
    return folder


def member(size):
    return FrontMember(
        trial_id="0001",
        student="cut ×0.3",
        bytes=size,
        parameters=1,
        ratio=0.1,
        val_accuracy=0.1,
        test_accuracy=0.1,
        retention=0.1,
        config={},
        path="students/0001",
        latency_ms={},
    )


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

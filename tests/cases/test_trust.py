"""A student from someone else runs no code unless the user says so."""

import dataclasses
import json
import shutil
import sys

import pytest
from PIL import Image

import tkd_search
from tests.cli.calling import call
from tkd_search.errors import UserError
from tkd_search.export import export_student
from tkd_search.export.pyfunc import _load_pyfunc
from tkd_search.export.student_description import DESCRIPTION_FILE, read_description, write_description

MODULE = """
from pathlib import Path
Path({witness!r}).touch()
def build(num_classes, **args):
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))
"""


@pytest.fixture
def witness(tmp_path, monkeypatch):
    """The file that the foreign module creates when it is imported."""
    (tmp_path / "foreign_student.py").write_text(
        MODULE.format(witness=str(tmp_path / "ran")), encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "ran"
    sys.modules.pop("foreign_student", None)


@pytest.fixture
def foreign(tmp_path, shipped, witness):
    """A student's folder whose description names that module."""
    folder = tmp_path / "student"
    shutil.copytree(shipped, folder)
    one = read_description(folder)
    named = dataclasses.replace(one.architecture, name="foreign_student:build", args={})
    write_description(folder, dataclasses.replace(one, architecture=named))
    return folder


def test_no_way_in_runs_a_strangers_code(tmp_path, foreign, witness, digits, monkeypatch):
    monkeypatch.delenv("TKD_TRUST", raising=False)
    for way in (tkd_search.load, lambda path: export_student(path, digits), _load_pyfunc):
        with pytest.raises(UserError, match=r"(?s)foreign_student:build.*trust=True"):
            way(foreign)
    (tmp_path / "images" / "0").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "images" / "0" / "x.png")
    refused = call("evaluate", foreign, "--data", tmp_path / "images")
    assert refused.code == 2
    assert "--trust" in refused.err
    assert not witness.exists()


def test_a_cut_of_a_strangers_big_model_runs_no_code(foreign, witness):
    plain = json.loads((foreign / DESCRIPTION_FILE).read_text(encoding="utf-8"))
    plain["architecture"]["name"] = "cut"
    (foreign / DESCRIPTION_FILE).write_text(json.dumps(plain), encoding="utf-8")
    record = {"big_model": {"name": "foreign_student:build", "width": 1, "args": {}, "stem": "auto"}}
    (foreign / "cut.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match="foreign_student:build"):
        tkd_search.load(foreign)
    assert not witness.exists()


@pytest.mark.parametrize("way", ["load", "pyfunc"])
def test_with_trust_it_is_built(foreign, witness, monkeypatch, way):
    monkeypatch.setenv("TKD_TRUST", "1")
    with pytest.raises(UserError, match="cannot be read"):  # its weights are another network's
        tkd_search.load(foreign, trust=True) if way == "load" else _load_pyfunc(str(foreign))
    assert witness.exists()


def test_a_plain_student_needs_no_trust(shipped):
    assert tkd_search.load(shipped)[0] is not None

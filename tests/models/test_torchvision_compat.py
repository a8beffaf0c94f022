"""torchvision can be imported with or without its operators, and is imported by one module only."""

import ast
import sys
from pathlib import Path

import pytest
import torch

import tkd_search
from tkd_search.models import torchvision_compat as compat

ROOT = Path(tkd_search.__file__).parent.parent


def test_the_models_can_be_built() -> None:
    assert compat.torchvision.models.get_model("squeezenet1_1", num_classes=3) is not None


def test_all_schemas_are_defined_after_the_import() -> None:
    assert compat.define_missing_schemas() == ()
    assert hasattr(torch.ops.torchvision, "nms")


def test_a_second_import_is_the_same_module() -> None:
    assert compat.import_torchvision() is sys.modules["torchvision"]


@pytest.mark.skipif(compat.operators_load(), reason="the operators load: nothing is defined")
def test_an_operator_without_a_kernel_raises() -> None:
    boxes = torch.rand(2, 4)
    with pytest.raises((NotImplementedError, RuntimeError)):
        torch.ops.torchvision.nms(boxes, torch.rand(2), 0.5)


def test_every_schema_is_defined_once() -> None:
    names = [schema.name for schema in torch._C._jit_get_all_schemas()]
    assert all(names.count(name) == 1 for name in compat._SCHEMAS)


@pytest.mark.parametrize("folder", ["tkd_search", "tests", "benchmarks"])
def test_no_other_module_imports_torchvision(folder: str) -> None:
    importers = []
    for file in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            if any(name.split(".")[0] == "torchvision" for name in names):
                importers.append(str(file))
    assert importers == []

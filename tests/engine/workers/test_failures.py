"""Failures by environment and by configuration, with real errors of the libraries that a worker uses."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tkd_search import storage
from tkd_search.data.bank_files import load_bank
from tkd_search.distill.diverged import Diverged
from tkd_search.engine.workers.failures import environment_failed, out_of_memory
from tkd_search.errors import UserError
from tkd_search.models.model_settings import StudentSettings


def raised(act: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (the test examines the type)
        act()
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError(
            "AWS Error NETWORK_CONNECTION during HeadObject operation"
        ),  # pyarrow's errors have no number
        ConnectionResetError(),
        PermissionError(errno.EACCES, "denied"),
    ],
)
def test_errors_of_disk_and_storage_are_environment_failures(error: Exception) -> None:
    assert environment_failed(error)


def test_unwritable_weights_and_a_missing_bank_are_environment_failures(tmp_path: Path) -> None:
    written = raised(lambda: save_file({"a": torch.zeros(1)}, tmp_path / "no folder" / "model.safetensors"))
    assert not isinstance(written, OSError)
    assert environment_failed(written)
    missing = raised(lambda: load_bank(tmp_path / "bank"))
    assert isinstance(missing, UserError)
    assert environment_failed(missing)
    assert environment_failed(raised(lambda: storage.get_file(str(tmp_path / "none"), tmp_path / "copy")))


def test_errors_of_a_configuration_are_no_environment_failures() -> None:
    for error in (
        Diverged(3, {"total": float("nan")}),
        torch.OutOfMemoryError("CUDA out of memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        UserError("student.width", "0", "more"),
        raised(lambda: StudentSettings(width=-1.0)),
        raised(lambda: torch.zeros(2) @ torch.zeros(3)),
    ):
        assert not environment_failed(error)


def test_lack_of_memory_is_found_also_as_a_cause() -> None:
    allocation = raised(lambda: torch.empty(1 << 50))
    assert out_of_memory(allocation)
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    wrapped = RuntimeError("the student cannot be built")
    wrapped.__cause__ = allocation
    assert out_of_memory(wrapped)
    assert not out_of_memory(ValueError("memory"))

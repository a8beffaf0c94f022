"""Which failures are a trial's own, told by real errors of the libraries that a worker uses."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tkd_search import storage
from tkd_search.data.bank_files import load_bank
from tkd_search.distill.diverged import Diverged
from tkd_search.engine.workers.failures import environment_failed
from tkd_search.errors import UserError
from tkd_search.models.model_settings import StudentSettings


def raised(act: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (which one is the question)
        act()
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError("AWS Error NETWORK_CONNECTION during HeadObject operation"),  # pyarrow's have no number
        ConnectionResetError(),
        PermissionError(errno.EACCES, "denied"),
    ],
)
def test_errors_of_disk_and_storage_are_the_environments(error: Exception) -> None:
    assert environment_failed(error)


def test_weights_that_cannot_be_written_and_a_bank_that_has_gone_are_the_environments(tmp_path: Path) -> None:
    written = raised(lambda: save_file({"a": torch.zeros(1)}, tmp_path / "no folder" / "model.safetensors"))
    assert not isinstance(written, OSError)
    assert environment_failed(written)
    gone = raised(lambda: load_bank(tmp_path / "bank"))
    assert isinstance(gone, UserError)
    assert environment_failed(gone)
    assert environment_failed(raised(lambda: storage.get_file(str(tmp_path / "none"), tmp_path / "copy")))


def test_what_a_configuration_does_to_its_trial_is_its_own() -> None:
    for error in (
        Diverged(3, {"total": float("nan")}),
        torch.OutOfMemoryError("CUDA out of memory"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        UserError("student.width", "0", "more"),
        raised(lambda: StudentSettings(width=-1.0)),
        raised(lambda: torch.zeros(2) @ torch.zeros(3)),
    ):
        assert not environment_failed(error)

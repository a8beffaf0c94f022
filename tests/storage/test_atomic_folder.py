"""Atomic folders: a folder appears complete or not at all."""

import threading
from pathlib import Path

import pytest

from tkd_search.storage.atomic_folder import atomic_folder


def test_a_failed_writer_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "it") as partial:
        (partial / "file").write_text("old")
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "it") as partial:
        (partial / "nowhere" / "file").write_text("new")
    assert (tmp_path / "it" / "file").read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["it"]


def test_concurrent_writers_leave_one_complete_folder(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            for _ in range(5):
                with atomic_folder(tmp_path / "it") as partial:
                    for name in ("a", "b"):
                        (partial / name).write_text(str(number))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (tmp_path / "it" / "a").read_text() == (tmp_path / "it" / "b").read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["it"]

"""Folders whose files are cut short, changed or missing are noticed, removed and written again."""

from pathlib import Path

import pytest

from tkd_search import storage
from tkd_search.storage import remote_folders
from tkd_search.storage.remote_folders import MANIFEST, verify_folder

CONTENT = bytes(range(256)) * 40


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def grow(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"\0")


DAMAGES = [cut, flip, grow, Path.unlink]


def write(where: str) -> None:
    with remote_folders.write_folder(where) as folder:
        (folder / "rows").write_bytes(CONTENT)
        (folder / "empty").touch()


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_damaged_folder_is_removed_with_a_warning_and_written_again(tmp_path, caplog, scheme, damage):
    where = f"{scheme}{tmp_path / 'bank'}"
    write(where)
    assert verify_folder(where)
    damage(tmp_path / "bank" / "rows")
    assert not verify_folder(where)
    assert f"{where} is damaged (rows" in caplog.text
    assert not list(tmp_path.glob("*"))
    write(where)
    assert verify_folder(where)
    assert storage.read_bytes(storage.below(where, "rows")) == CONTENT
    assert len(caplog.records) == 1


@pytest.mark.parametrize("damage", [cut, Path.unlink])
def test_a_folder_without_a_readable_manifest_does_not_count(tmp_path, damage):
    write(str(tmp_path / "bank"))
    damage(tmp_path / "bank" / MANIFEST)
    assert not verify_folder(str(tmp_path / "bank"))


def test_a_file_written_once_is_written_again_after_damage(tmp_path):
    where, written = str(tmp_path / "bank"), []
    for _ in range(2):
        with remote_folders.write_once(where) as folder:
            if folder is not None:
                written.append(folder)
                (folder / "rows").write_bytes(CONTENT)
    assert len(written) == 1
    flip(tmp_path / "bank" / "rows")
    with remote_folders.write_once(where) as folder:
        assert folder is not None
        (folder / "rows").write_bytes(CONTENT)
    assert verify_folder(where)


@pytest.mark.parametrize("damage", [cut, grow, Path.unlink])
def test_a_node_reads_a_folder_again_whose_copy_lost_its_length(tmp_path, monkeypatch, damage):
    monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cache"))
    where = f"file://{tmp_path / 'bank'}"
    write(where)
    damage(remote_folders.fetch_folder(where) / "rows")
    assert (remote_folders.fetch_folder(where) / "rows").read_bytes() == CONTENT


def test_of_a_file_that_is_too_long_to_read_the_length_is_compared(tmp_path, monkeypatch):
    monkeypatch.setattr(remote_folders, "COMPARED_BYTES", len(CONTENT) - 1)
    where = str(tmp_path / "bank")
    write(where)
    flip(tmp_path / "bank" / "rows")
    assert verify_folder(where)
    cut(tmp_path / "bank" / "rows")
    assert not verify_folder(where)

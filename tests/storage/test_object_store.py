"""Locations, files and folders, with ``file://`` in place of object storage."""

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_search import storage
from tkd_search.errors import UserError
from tkd_search.storage import object_store, remote_folders

NAMES = st.text("abc-._0", min_size=1).filter(lambda name: name.strip("."))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def remote(folder: Path) -> str:
    return f"file://{folder}"


@given(st.sampled_from(["/runs", "s3://b/p", "gs://b"]), st.sampled_from(["", "?scheme=http"]), NAMES, NAMES)
def test_below_joins_names_and_keeps_the_query(base: str, query: str, one: str, two: str) -> None:
    where = base + query if storage.is_remote(base) else base
    assert storage.below(storage.below(where, one), two) == storage.below(where, one, two)
    assert storage.below(where, one).startswith(f"{base}/{one}")
    assert storage.below(where, one).endswith(query) or not storage.is_remote(base)


def test_uris_and_absolute_paths_are_storages_and_others_are_refused() -> None:
    assert storage.storage_uri("/nfs/tkd/") == "file:///nfs/tkd"
    for fine in ("s3://bucket/x", "gs://bucket", "s3://b/p?endpoint_override=h:1&scheme=http", "file:///a#b"):
        assert storage.storage_uri(fine) == fine
    for wrong in (
        *("ftp://a/b", "relative/folder", "s3://", "s3://key:secret@bucket/x"),
        *("s3://bucket/x#1", "s3://key:secret@bucket/x#1", "file://relative", "file://relative/x"),
    ):
        with pytest.raises(UserError, match="storage") as caught:
            storage.storage_uri(wrong)
        assert "secret" not in str(caught.value)


def test_a_storage_that_cannot_be_written_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="doctor --storage"):
        storage.check_storage(remote(tmp_path / "file" / "below"))
    storage.check_storage(remote(tmp_path / "new"))
    assert list((tmp_path / "new").iterdir()) == []


def test_files_are_replaced_without_leftovers_and_missing_ones_are_none(tmp_path: Path) -> None:
    for where in (str(tmp_path / "a" / "x"), remote(tmp_path / "b" / "x")):
        assert storage.read_bytes(where) is None
        storage.write_bytes(where, b"one")
        storage.write_bytes(where, b"two")
        assert storage.read_bytes(where) == b"two"
        storage.delete(where)
        storage.delete(where)
        assert storage.read_bytes(where) is None
    assert [entry.name for entry in (tmp_path / "a").iterdir()] == []


def test_a_file_that_another_process_has_moved_is_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "file_exists", lambda where: True)  # it was there a moment ago
    storage.move(remote(tmp_path / "a"), remote(tmp_path / "b"))


def write_half_a_folder(where: str) -> None:
    with remote_folders.write_folder(where) as folder:
        (folder / "part").write_text("half")
        (folder / "missing").read_text()


def test_a_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    for where in (str(tmp_path / "here"), remote(tmp_path / "there")):
        with pytest.raises(FileNotFoundError):
            write_half_a_folder(where)
        assert not remote_folders.verify_folder(where)
        with remote_folders.write_folder(where) as folder:
            (folder / "part").write_text("whole")
        assert remote_folders.verify_folder(where)
        assert (remote_folders.fetch_folder(where) / "part").read_text() == "whole"


def test_a_missing_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no complete folder"):
        remote_folders.fetch_folder(remote(tmp_path / "nothing"))
    with pytest.raises(UserError, match="nothing"):
        remote_folders.fetch_tree(remote(tmp_path / "nothing"))


def test_a_node_reads_a_folder_once_and_again_when_its_manifest_changes(tmp_path: Path, cache: Path) -> None:
    where = remote(tmp_path / "bank")
    with remote_folders.write_folder(where) as folder:
        (folder / "rows").write_text("1")
    first = remote_folders.fetch_folder(where)
    assert remote_folders.fetch_folder(where) == first
    (tmp_path / "bank" / "rows").write_text("overwritten in place")
    assert (remote_folders.fetch_folder(where) / "rows").read_text() == "1", "the node's own copy"
    with remote_folders.write_folder(where) as folder:
        (folder / "rows").write_text("2")
    assert (remote_folders.fetch_folder(where) / "rows").read_text() == "2"


def test_concurrent_readers_of_a_node_fill_the_cache_once(cache: Path) -> None:
    waiting, filled = threading.Semaphore(0), []

    def fill(folder: Path) -> None:
        for _ in range(8):
            assert waiting.acquire(timeout=60)
        filled.append(folder)
        for _ in range(8):
            waiting.release()

    def read() -> None:
        waiting.release()
        remote_folders.cached_folder("entry", fill)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(filled) == 1
    assert (cache / "entry").is_dir()


def test_damaged_content_is_refused_and_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "_ATTEMPTS", 1)
    where = remote(tmp_path / "bank")
    with remote_folders.write_folder(where) as folder:
        (folder / "rows").write_text("1")
    (tmp_path / "bank" / "rows").write_text("x")
    with pytest.raises(OSError, match="damaged"):
        remote_folders.fetch_folder(where)
    assert not any(tmp_path.glob("cache/bank*"))


def test_a_fetched_tree_knows_its_origin_and_is_read_again_after_a_change(tmp_path: Path) -> None:
    (tmp_path / "set" / "train" / "cat").mkdir(parents=True)
    (tmp_path / "set" / "train" / "cat" / "a.png").write_text("a")
    where = remote(tmp_path / "set")
    first = remote_folders.fetch_tree(where)
    assert (first / "train" / "cat" / "a.png").read_text() == "a"
    assert remote_folders.origin(first / "train") == (where, "train")
    assert remote_folders.origin(tmp_path) is None
    assert remote_folders.fetch_tree(where) == first
    (tmp_path / "set" / "train" / "cat" / "b.png").write_text("b")
    second = remote_folders.fetch_tree(where)
    assert second != first
    assert (second / "train" / "cat" / "b.png").exists()


def test_a_folder_without_subfolders_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "t.csv").write_text("image,label")
    assert (remote_folders.fetch_tree(remote(tmp_path / "set")) / "t.csv").read_text() == "image,label"


@pytest.mark.parametrize("name", ["C# projects", "what?", "50 % naïve"])
@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_path_may_contain_special_characters_of_uris(tmp_path: Path, scheme: str, name: str) -> None:
    root = f"{scheme}{tmp_path / name}"
    for trial in ("t0", "t1"):
        storage.write_bytes(storage.below(root, trial, "weights"), trial.encode())
    assert storage.read_bytes(storage.below(root, "t0", "weights")) == b"t0"
    assert storage.local_path(storage.below(root, "t1")) == tmp_path / name / "t1"
    assert (tmp_path / name / "t1" / "weights").read_bytes() == b"t1"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]

"""A run's folder and its copy on the storage: what a machine that comes after can go on from."""

import pytest

from tkd_search import storage
from tkd_search.engine.run_dir import replicate
from tkd_search.errors import UserError


def test_a_copy_is_fetched_whole_and_a_fetch_that_was_cut_short_again(tmp_path, monkeypatch):
    run, home, fetched = tmp_path / "run", f"file://{tmp_path}/home", tmp_path / "fetched"
    (run / "events").mkdir(parents=True)
    for name in ("config.yaml", "study.journal", "events/events.jsonl"):
        (run / name).write_text(name)
    with replicate.Replicator(run, home):
        pass
    get, count = storage.get_file, [0]

    def cut(where, local):
        count[0] += 1
        if count[0] == 3:
            raise OSError("the storage is gone")
        get(where, local)

    monkeypatch.setattr(storage, "get_file", cut)
    with pytest.raises(OSError, match="gone"):
        replicate.restore(fetched, home)
    # By this file a run is known: without it the next command fetches again.
    assert not (fetched / "config.yaml").exists()
    assert replicate.restore(fetched, home)
    assert (fetched / "study.journal").read_text() == "study.journal"
    assert (fetched / "config.yaml").exists()


def test_nothing_is_fetched_where_nobody_began(tmp_path):
    assert not replicate.restore(tmp_path / "run", f"file://{tmp_path}/home")


def test_a_folder_that_another_machine_has_overtaken_is_refused_and_stays(tmp_path):
    first, second, home = tmp_path / "first", tmp_path / "second", f"file://{tmp_path}/home"
    first.mkdir()
    (first / "config.yaml").write_text("begun")
    for _ in range(2):  # a run, and the same command again
        replicate.check_owner(first, home)
        with replicate.Replicator(first, home):
            (first / "study.journal").write_text("a1")
    assert replicate.restore(second, home)
    replicate.check_owner(second, home)
    with replicate.Replicator(second, home):
        (second / "study.journal").write_text("a1 b2")
    with pytest.raises(UserError, match="another machine"):
        replicate.check_owner(first, home)
    assert (first / "study.journal").read_text() == "a1"
    replicate.check_owner(second, home)

"""Copies of a run's folder on the storage, and which driver may write them."""

import json
import subprocess
import sys
from contextlib import contextmanager

import pytest

from tkd_search import storage
from tkd_search.config.experiment_file import load_config
from tkd_search.engine.progress import Silent
from tkd_search.engine.run_dir import replicate
from tkd_search.engine.run_dir.owned_progress import OwnedProgress
from tkd_search.engine.run_dir.replicate import Replicator, _names
from tkd_search.engine.run_dir.run_dir import RunDir
from tkd_search.errors import UserError


@pytest.fixture
def run(tmp_path):
    """The folder of a run with a configuration, and its place on the storage."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text("name: run")
    return folder, f"file://{tmp_path}/home"


def test_a_copy_is_restored_whole_and_an_interrupted_restore_starts_again(run, tmp_path, monkeypatch):
    folder, home = run
    fetched = tmp_path / "fetched"
    (folder / "events").mkdir()
    for name in ("study.journal", "events/events.jsonl"):
        (folder / name).write_text(name)
    with Replicator(folder, home):
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
    # A run is known by this file: without it the next command fetches again.
    assert not (fetched / "config.yaml").exists()
    assert replicate.restore(fetched, home)
    assert (fetched / "study.journal").read_text() == "study.journal"
    assert (fetched / "config.yaml").exists()


def test_a_place_without_a_run_restores_nothing(run, tmp_path):
    folder, home = run
    assert not replicate.restore(tmp_path / "other", home)
    with Replicator(folder, home):  # has begun, and copied nothing yet
        assert not replicate.restore(tmp_path / "other", home)


def test_an_older_folder_than_the_copy_is_refused_and_left_as_it_is(run, tmp_path):
    first, home = run
    second = tmp_path / "second"
    for _ in range(2):  # a run, and the same command again
        with Replicator(first, home):
            (first / "study.journal").write_text("a1")
    assert replicate.restore(second, home)
    with Replicator(second, home):
        (second / "study.journal").write_text("a1 b2")
    for enter in (replicate.check_owner, lambda *where: Replicator(*where).__enter__()):
        with pytest.raises(UserError, match="another machine"):
            enter(first, home)
    assert (first / "study.journal").read_text() == "a1"
    replicate.check_owner(second, home)


def test_parts_locks_and_what_workers_write_are_not_copied(run, tmp_path):
    folder, home = run
    names = ["study.journal", "students/t1/model.safetensors", "events/events.jsonl"]
    left_out = [
        ".lock", "study.journal.lock", ".record.json.77.part", "students/t1/.model.safetensors.0a1b2c3d",
        ".students.tmp/model.safetensors", "trials/t1/model.safetensors", "train/x", "tune/x",
    ]  # fmt: skip
    for name in (*names, *left_out):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    with Replicator(folder, home) as replicator:
        assert replicator.copy() == len(names) + 1
        assert replicator.copy() == 0
    state = json.loads((tmp_path / "home" / replicate.STATE_FILE).read_text())
    assert state["files"] == sorted([*names, "config.yaml"])


WRITER = """
import sys
from contextlib import contextmanager
from pathlib import Path
from tkd_search.files import write_json
folder = Path(sys.argv[1])
rounds = 0
while True:
    for number in range(20):
        write_json(folder / f"{number}.json", list(range(100)))
        if number % 2:
            (folder / f"{number}.json").unlink()
    rounds += 1
    if rounds == 1:
        print("written once", flush=True)
"""


def test_files_that_vanish_or_are_half_written_do_not_stop_a_copy(run, tmp_path):
    """Another process writes and removes files all the time; what is copied is whole."""
    folder, home = run
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(folder)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout.readline() == b"written once\n"
        with Replicator(folder, home) as replicator:
            for _ in range(300):
                replicator.copy()
    finally:
        writer.kill()
        writer.wait()
    copies = [file for file in (tmp_path / "home").iterdir() if file.name[0].isdigit()]
    assert len(copies) >= 10
    for file in copies:
        assert json.loads(file.read_text()) == list(range(100))


@contextmanager
def another_machine(run, folder):
    """Start the run from its copy in ``folder``, as the same command on another machine does."""
    _, home = run
    assert replicate.restore(folder, home)
    with Replicator(folder, home) as other:
        yield other


def lose_the_run(run, folder, error=None):
    """Run a driver to its end, while another machine takes the run over; ``error`` ends it."""
    first, home = run
    with Replicator(first, home) as one:
        (first / "study.journal").write_text("a1")
        one.copy()
        with another_machine(run, folder):
            (folder / "study.journal").write_text("a1 b2")
        (first / "study.journal").write_text("a1 a2")
        if error is not None:
            raise error


def test_a_driver_that_lost_the_run_copies_nothing_more(run, tmp_path):
    with pytest.raises(UserError, match="another driver") as lost:
        lose_the_run(run, tmp_path / "second")
    assert str(run[0]) in lost.value.hint
    assert (tmp_path / "home" / "study.journal").read_text() == "a1 b2"


@pytest.mark.parametrize(
    ("error", "raised"), [(ValueError("mine"), ValueError), (KeyboardInterrupt(), UserError)]
)
def test_the_loss_of_the_run_hides_no_error_but_is_shown_after_ctrl_c(run, tmp_path, error, raised):
    with pytest.raises(raised):
        lose_the_run(run, tmp_path / "second", error)


def report_steps(run, folder):
    """Report progress until it raises, while another machine takes the run over."""
    with Replicator(*run, interval=0.01) as one:
        progress = OwnedProgress(Silent(), one.check)
        progress.stage("search", None)
        one.copy()
        with another_machine(run, folder):
            while True:
                progress.advance(1)


def test_the_progress_of_a_search_raises_once_another_driver_owns_the_run(run, tmp_path):
    with pytest.raises(UserError, match="another driver"):
        report_steps(run, tmp_path / "second")


def test_a_storage_that_is_the_output_by_another_name_is_not_copied_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    places = [f"output={tmp_path / 'real' / 'runs'}", f"storage={tmp_path / 'link'}"]
    assert RunDir.of(load_config(None, places, name="run")).copied_to is None


def test_the_head_of_a_cluster_uses_its_storage(tmp_path, monkeypatch):
    monkeypatch.setenv("TKD_STORAGE", str(tmp_path / "shared"))
    assert RunDir.of(load_config(None, [], name="run")).copied_to == f"file://{tmp_path}/shared/runs/run"


def test_what_mlflow_has_is_copied_before_the_log_and_the_study_after_it(run):
    folder, _ = run
    for name in ("mlflow/acknowledged.json", "events/events.jsonl", "study.journal"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    names = _names(folder)
    assert names[0] == "mlflow/acknowledged.json"
    assert names[-1] == "study.journal"


@pytest.mark.parametrize("storage_set", [False, True])
def test_a_run_is_replicated_where_the_storage_is_another_place(tmp_path, storage_set):
    home = [f"storage={tmp_path / 'shared'}"] if storage_set else []
    run_dir = RunDir.of(load_config(None, [f"output={tmp_path / 'runs'}", *home], name="run"))
    run_dir.folder.mkdir(parents=True)
    with run_dir.replicated(Silent()):
        (run_dir.folder / "config.yaml").write_text("name: run")
    assert (tmp_path / "shared" / "runs" / "run" / "config.yaml").exists() == storage_set

"""Folder of a job, upload of data, and checks before a run on a cluster."""

import shutil
import sys
from pathlib import Path

import pytest

from tests.cluster.conftest import cluster_file
from tkd_search.cluster import launch
from tkd_search.cluster.cluster_file import read_cluster_file
from tkd_search.cluster.head import SshHead
from tkd_search.cluster.job_package import EXPERIMENT_FILE, MAX_WEIGHTS_BYTES, copy_code, copy_experiment
from tkd_search.cluster.upload import MAX_UPLOAD_BYTES, LocalData, local_data, remote_path, send_data
from tkd_search.config.experiment_file import Config, load_config
from tkd_search.errors import UserError

CLUSTERS = Path(__file__).parents[2] / "clusters"


def job(folder: Path, config: Config, **changes: str) -> Config:
    """Copy an experiment into a job's folder and return what the job reads there."""
    folder.mkdir()
    copy_experiment(folder, config, changes)
    return load_config(folder / EXPERIMENT_FILE)


def test_code_is_copied_without_compiled_files(tmp_path: Path) -> None:
    copy_code(tmp_path / "job")
    assert (tmp_path / "job" / "tkd_search" / "cluster" / "job_package.py").exists()
    assert {entry.name for entry in (tmp_path / "job").iterdir()} <= {"tkd_search", "configs"}
    assert not list((tmp_path / "job").rglob("__pycache__"))


def test_the_job_reads_the_same_experiment(tmp_path: Path) -> None:
    given = ["training.lr={float: [0.001, 0.1], log: true}", "data.path=it's here", "output=elsewhere"]
    config = load_config("mnist", given, name="mine")
    found = job(tmp_path / "job", config, storage="s3://b/tkd")
    assert found.space == config.space
    assert found.name == "mine"
    assert found.tree == {**config.tree, "storage": "s3://b/tkd"}


def test_files_of_weights_are_copied_and_named(tmp_path: Path) -> None:
    first, second = tmp_path / "a" / "f.safetensors", tmp_path / "b" / "f.safetensors"
    for file in (first, second):
        file.parent.mkdir()
        file.write_bytes(file.parent.name.encode())
    given = [
        f"big_model=[{{weights: {first}}}, {{weights: IMAGENET1K_V1}}]",
        f"student.weights={{choice: [{second}, pretrained]}}",
    ]
    folder = tmp_path / "job"
    found = job(folder, load_config("imagefolder", given))
    named, by_name = (model["weights"] for model in found.tree["big_model"])
    assert (folder / named).read_bytes() == b"a"
    assert by_name == "IMAGENET1K_V1"
    copy, kept = found.tree["student"]["weights"]["choice"]
    assert (folder / copy).read_bytes() == b"b"
    assert kept == "pretrained"


def test_large_files_of_weights_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "f.safetensors"
    with file.open("wb") as out:
        out.truncate(MAX_WEIGHTS_BYTES + 1)  # sparse: occupies no disk space
    with pytest.raises(UserError, match="of files with weights"):
        job(tmp_path / "job", load_config(None, [f"big_model.weights={file}"]))


def test_the_users_modules_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_alone.py").write_text("def small(num_classes): ...\n")
    (tmp_path / "mine_package" / "nets").mkdir(parents=True)
    (tmp_path / "mine_package" / "nets" / "big.py").write_text("def big(num_classes): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    given = [
        "big_model.name=mine_package.nets.big:big",
        "student.name={choice: [mine_alone:small, torchvision.models:resnet18, json:loads]}",
        "student.ratios=null",
    ]
    folder = tmp_path / "job"
    job(folder, load_config(None, given))
    assert {entry.name for entry in folder.iterdir()} == {EXPERIMENT_FILE, "mine_alone.py", "mine_package"}
    assert (folder / "mine_package" / "nets" / "big.py").exists()


def test_name_of_a_local_search_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.journal").write_text("a local search")
    with pytest.raises(UserError, match="--name"):
        launch.run_on_cluster(
            CLUSTERS / "aws.yaml", load_config(None, [f"output={tmp_path}"], name="mine"), "run"
        )


@pytest.mark.parametrize("key", ["tracking.uri", "storage"])
def test_logins_are_refused_by_their_key(key: str) -> None:
    with pytest.raises(UserError, match=key) as caught:
        launch.refuse_secrets(load_config(None, [f"{key}=https://me:secret@host/x"]))
    assert "secret" not in str(caught.value).replace(key, "")
    launch.refuse_secrets(load_config())


def test_the_clusters_stores_serve_where_the_experiment_names_none() -> None:
    file = cluster_file(storage="s3://b/tkd")
    mlflow = "http://127.0.0.1:5000"
    assert launch.cluster_stores(load_config(), file) == {"storage": "s3://b/tkd", "tracking.uri": mlflow}
    own = load_config(None, ["storage=gs://mine", "tracking.uri=https://mlflow.org"])
    assert launch.cluster_stores(own, file) == {}
    assert launch.cluster_stores(
        load_config(None, ["tracking.uri=sqlite:///m.db", "storage=/nfs"]), file
    ) == {"tracking.uri": mlflow}


def test_runs_folder_is_below_a_shared_storage_folder() -> None:
    assert launch.runs_folder(cluster_file(storage="/nfs/tkd")) == "/nfs/tkd/runs"
    assert launch.runs_folder(cluster_file(storage="s3://b/tkd")).startswith("${TKD_STATE")
    assert launch.runs_folder(read_cluster_file(CLUSTERS / "aws.yaml")).endswith("/runs")


def test_data_on_this_machine_are_found(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"12")
    (images / "b.png").write_bytes(b"3")
    config = load_config(None, [f"data.path={images}", f"data.unlabelled={images / 'a.png'}"])
    found = local_data(config, "data.path")
    assert found == LocalData("data.path", images)
    assert found.size == 3
    assert local_data(config, "data.unlabelled") == LocalData("data.unlabelled", images / "a.png")
    for path in ("s3://b/images", str(tmp_path / "absent"), "null"):
        assert local_data(load_config(None, [f"data.path={path}"]), "data.path") is None


def test_a_table_brings_its_images(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(b"123")
    table = tmp_path / "my photos.csv"
    table.write_text("image;label\nin/a.png;x\nin/a.png;y\nabsent.png;x\n")
    config = load_config(None, [f"data.path={table}"])
    found = local_data(config, "data.path")
    assert found == LocalData("data.path", table, ("in/a.png",))
    assert found.size == 3 + table.stat().st_size
    assert remote_path(found, 1).endswith("/my_photos.csv")
    (tmp_path / "sub").mkdir()
    outside = tmp_path / "sub" / "t.csv"
    outside.write_text("image,label\n../in/a.png,x\n")
    with pytest.raises(UserError, match="outside its folder"):
        local_data(load_config(None, [f"data.path={outside}"]), "data.path")


class HeadHere(SshHead):
    """A head whose files are below a folder of this machine: its shell is this machine's."""

    def __init__(self, home: Path) -> None:
        super().__init__(cluster_file(), "host")
        self.home = home

    def shell_command(self, script: str) -> list[str]:
        return ["sh", "-c", f"cd '{self.home}' && {script}"]


@pytest.mark.skipif(shutil.which("rsync") is None, reason="rsync is not installed")
def test_sent_files_arrive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, source = tmp_path / "home", tmp_path / "source"
    for name in ("in a/x.png", "not/listed.png"):
        (source / name).parent.mkdir(parents=True)
        (source / name).write_bytes(b"x")
    (source / "t.csv").write_text("image,label\n")
    home.mkdir()
    # A program named `ssh` that runs rsync's server here.
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(
        f"#!{sys.executable}\nimport os, sys\nos.chdir({str(home)!r})\n"
        "os.execvp('rsync', sys.argv[sys.argv.index('rsync'):])\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ssh.parent}:/usr/bin:/bin")
    value = send_data(HeadHere(home), LocalData("data.path", source / "t.csv", ("in a/x.png",)), print)
    table = home / value.removeprefix("$HOME/")
    assert table.read_text() == "image,label\n"
    assert (table.parent / "in a" / "x.png").exists()
    assert not (table.parent / "not").exists()
    value = send_data(HeadHere(home), LocalData("data.path", source), print)
    assert (home / value.removeprefix("$HOME/") / "not" / "listed.png").exists()


def test_data_above_the_upload_limit_are_refused_with_the_sync_command(tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(MAX_UPLOAD_BYTES + 1)  # sparse: occupies no disk space
    with pytest.raises(UserError, match="aws s3 sync"):
        send_data(SshHead(cluster_file(storage="s3://b"), "host"), LocalData("data.path", big), print)


def test_remote_path_depends_on_the_size_of_the_data() -> None:
    data = LocalData("data.path", Path("/d"))
    assert remote_path(data, 1) != remote_path(data, 2)
    assert remote_path(data, 1) == remote_path(data, 1)

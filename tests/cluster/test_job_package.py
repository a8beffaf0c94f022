"""Folder of a job, upload of data, and checks before a run on a cluster."""

from pathlib import Path

import pytest

from tests.cluster.conftest import cluster_file
from tkd_search.cluster.cluster_file import read_cluster_file
from tkd_search.cluster.head import SshHead
from tkd_search.cluster.job_package import fill_job_folder, option, overrides, without_option
from tkd_search.cluster.launch import run_on_cluster, runs_folder
from tkd_search.cluster.upload import MAX_UPLOAD_BYTES, local_data, remote_folder, send_data
from tkd_search.errors import UserError

CLUSTERS = Path(__file__).parents[2] / "clusters"


def test_options_are_read_and_removed() -> None:
    argv = ["--config", "a.yaml", "--set", "x=1", "--cluster=c.yaml", "--config=b.yaml", "--set=y.z=2=3"]
    assert option(argv, "--config") == "b.yaml"
    assert option(argv, "--name") is None
    assert without_option(argv, "--config") == ["--set", "x=1", "--cluster=c.yaml", "--set=y.z=2=3"]
    assert without_option(argv, "--cluster") == [w for w in argv if not w.startswith("--cluster")]
    assert overrides(argv) == {"x": "1", "y.z": "2=3"}


def test_job_folder_contains_code_and_configuration_only(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\n")
    folder = tmp_path / "job"
    folder.mkdir()
    argv = fill_job_folder(folder, ["--config", str(mine), "--set", "a=1"])
    assert option(argv, "--config") == "experiment/mine.yaml"
    assert (folder / "experiment" / "mine.yaml").read_text() == "name: mine\n"
    assert (folder / "tkd_search" / "cluster" / "job_package.py").exists()
    assert {entry.name for entry in folder.iterdir()} <= {"tkd_search", "configs", "experiment"}
    assert not list(folder.rglob("__pycache__"))


def folder_of(parent: Path, name: str) -> Path:
    (parent / name).mkdir()
    return parent / name


def test_job_folder_contains_local_weights_files(tmp_path: Path) -> None:
    weights, mine, folder = tmp_path / "f.safetensors", tmp_path / "mine.yaml", tmp_path / "job"
    weights.write_bytes(b"f")
    mine.write_text(f"big_model: {{weights: {weights}}}\n")
    folder.mkdir()
    argv = fill_job_folder(folder, ["--config", str(mine)])
    assert overrides(argv)["big_model.weights"] == "weights/big_model/f.safetensors"
    assert (folder / "weights" / "big_model" / "f.safetensors").read_bytes() == b"f"
    given = ["--config", str(mine), "--set", f"student.weights={weights}"]
    both = fill_job_folder(folder_of(tmp_path, "both"), given)
    assert overrides(both)["student.weights"] == "weights/student/f.safetensors"
    assert (tmp_path / "both" / "weights" / "student" / "f.safetensors").read_bytes() == b"f"
    (tmp_path / "other").mkdir()
    named = ["--config", str(mine), "--set", "big_model.weights=IMAGENET1K_V1"]
    assert fill_job_folder(tmp_path / "other", named) == [
        *("--set", "big_model.weights=IMAGENET1K_V1", "--config", "experiment/mine.yaml")
    ]


def test_missing_configuration_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        fill_job_folder(tmp_path, ["--config", "none.yaml"])


def test_name_of_a_local_search_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "study.journal").write_text("a local search")
    with pytest.raises(UserError, match="--name"):
        run_on_cluster(CLUSTERS / "aws.yaml", ["--output", str(tmp_path)], "mine")


def test_runs_folder_is_below_a_shared_storage_folder() -> None:
    assert runs_folder(cluster_file(storage="/nfs/tkd")) == "/nfs/tkd/runs"
    assert runs_folder(cluster_file(storage="s3://b/tkd")).startswith("${TKD_STATE")
    assert runs_folder(read_cluster_file(CLUSTERS / "aws.yaml")).endswith("/runs")


def test_local_data_is_read_from_the_file_and_set_overrides_it(tmp_path: Path) -> None:
    images, other = tmp_path / "images", tmp_path / "other"
    images.mkdir()
    other.mkdir()
    config = tmp_path / "c.yaml"
    config.write_text(f"data:\n  path: {images}\n")
    argv = ["--config", str(config)]
    assert local_data(argv) == images
    assert local_data([*argv, "--set", f"data.path={other}"]) == other
    assert local_data([*argv, "--set", "data.path=s3://b/images"]) is None
    assert local_data([]) is None
    assert local_data([*argv, "--set", f"data.unlabelled={other}"], "unlabelled") == other


def test_data_above_the_upload_limit_is_refused_with_the_sync_command(tmp_path: Path) -> None:
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.truncate(MAX_UPLOAD_BYTES + 1)  # sparse: occupies no disk space

    with pytest.raises(UserError, match="aws s3 sync"):
        send_data(SshHead(cluster_file(storage="s3://b"), "host"), big, print)


def test_remote_folder_depends_on_the_size_of_the_data() -> None:
    assert remote_folder(Path("/d"), 1) != remote_folder(Path("/d"), 2)
    assert remote_folder(Path("/d"), 1) == remote_folder(Path("/d"), 1)

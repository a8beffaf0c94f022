"""Checks of ``doctor``, each with the problem that it detects."""

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.calling import call
from tkd_search.cli import doctor
from tkd_search.cluster import node_checks
from tkd_search.cluster.node_probe import NodeReport, disk_free, probe_all_nodes
from tkd_search.engine import ray_session
from tkd_search.errors import UserError
from tkd_search.storage.object_store import write_error


def report(**changes: object) -> NodeReport:
    fields = {
        "host": "a", "gpus": (), "disk_free": 10**11, "shared_memory": 10**10, "storage_error": "",
        "python": "3.12.1", "torch": "2.13.0", **changes,
    }  # fmt: skip
    return NodeReport(**fields)


def test_installed_packages_pass() -> None:
    assert {check.state for check in node_checks.check_versions()} == {"ok"}


def test_missing_and_old_packages_are_named_with_a_fix() -> None:
    found = list(node_checks.check_versions(["nonesuch>=1", "click>=999", "ray; python_version < '3'"]))
    wrong = [check for check in found if check.state == "wrong"]
    assert [check.found.split()[0] for check in wrong] == ["nonesuch", "click"]
    assert all("setup.sh" in check.line() for check in wrong)


@pytest.mark.parametrize(
    ("names", "version", "driver", "state", "word"),
    [
        (("NVIDIA L4",), "2.13.0", True, "ok", "1 × NVIDIA L4"),
        ((), "2.13.0+cpu", True, "warn", "CPU build"),
        ((), "2.13.0", True, "warn", "does not find"),
        ((), "2.13.0+cpu", False, "ok", "CPU"),
    ],
)
def test_gpu_check(names: tuple[str, ...], version: str, driver: bool, state: str, word: str) -> None:
    check = node_checks.check_gpus(names, version, driver)
    assert check.state == state
    assert word in check.found


def test_cluster_requires_a_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    assert node_checks.check_token({}, "auto").state == "wrong"
    assert node_checks.check_token({}, "local").state == "ok"
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("my-secret")
    check = node_checks.check_token({}, "auto")
    assert check.state == "ok"
    assert "secret" not in check.line()
    assert node_checks.check_token({"RAY_AUTH_MODE": "disabled"}, "auto").state == "warn"


def test_writable_and_unwritable_storage(tmp_path: Path) -> None:
    assert node_checks.check_storage(str(tmp_path / "new" / "folder")).state == "ok"
    assert list((tmp_path / "new" / "folder").iterdir()) == [], "the test file is deleted"
    (tmp_path / "file").touch()
    check = node_checks.check_storage(str(tmp_path / "file" / "below"))
    assert check.state == "wrong"
    assert check.fix
    assert "ftp" in write_error("ftp://nowhere/x")


@pytest.mark.cluster
def test_storage_on_s3(aws: str) -> None:
    import boto3

    boto3.client("s3").create_bucket(Bucket="doctors")
    host = aws.removeprefix("http://")
    place = f"s3://doctors/tkd?scheme=http&endpoint_override={host}"
    assert write_error(place) == ""
    assert write_error(place.replace("doctors", "no-such-bucket"))


class Answer(http.server.BaseHTTPRequestHandler):
    """MLflow server with the one API call that the check uses, behind a login."""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Basic YWRtaW46cHc="  # admin:pw
        self.send_response(200 if allowed else 401)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def tracking() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_tracking_server_with_a_login(tracking: str) -> None:
    refused = node_checks.check_tracking(f"http://{tracking}", {})
    assert refused.state == "wrong", refused.found
    assert "MLFLOW_TRACKING_PASSWORD" in refused.fix
    login = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": "pw"}
    assert node_checks.check_tracking(f"http://{tracking}", login).state == "ok"
    in_uri = node_checks.check_tracking(f"http://admin:pw@{tracking}", {})
    assert in_uri.state == "ok"
    assert "pw" not in in_uri.line()


def test_unreachable_tracking_server_is_a_warning() -> None:
    assert node_checks.check_tracking("http://127.0.0.1:9", {}).state == "warn"


def test_disk_and_object_store_must_hold_the_bank(tmp_path: Path) -> None:
    disk, store = node_checks.check_room(tmp_path / "not" / "there", 10**10, 0)
    assert disk_free(tmp_path / "not" / "there") == disk_free(tmp_path)
    assert store.state == "ok"
    disk, store = node_checks.check_room(tmp_path, 10**10, 10**15)
    assert (disk.state, store.state) == ("wrong", "warn")
    assert "/dev/shm" in store.fix


def test_a_file_in_place_of_the_output_folder_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    output, *_ = node_checks.check_room(tmp_path / "runs", 10**10, 0)
    assert output.state == "wrong"
    assert "not a folder" in output.line()
    assert "--output" in output.fix


def test_half_a_core_is_said_by_doctor_and_by_a_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "core_share", lambda: 0.5)
    monkeypatch.setattr(ray_session, "core_share", lambda: 0.5)
    (check,) = doctor._check_limits()
    assert check.state == "warn"
    assert "a whole core" in check.fix
    assert "0.5 of a core" in ray_session._slowness()


def test_nodes_with_different_versions_or_without_write_access_are_wrong() -> None:
    fine = list(node_checks.check_nodes([report(), report(host="b", gpus=("L4",))], "s3://b"))
    assert {check.state for check in fine} == {"ok"}
    broken = list(node_checks.check_nodes([report(), report(host="b", storage_error="403")], "s3://b"))
    assert [check.state for check in broken] == ["ok", "wrong"]
    mixed = list(node_checks.check_nodes([report(), report(python="3.11.4"), report(torch="2.12.0")], ""))
    assert sum(check.state == "wrong" for check in mixed) == 2
    cuda = list(node_checks.check_nodes([report(torch="2.13.0+cpu"), report(torch="2.13.0+cu128")], ""))
    assert {check.state for check in cuda} == {"ok"}, "a CPU head with GPU workers is correct"


def test_command_prints_one_line_for_each_check(tmp_path: Path) -> None:
    called = call(
        "doctor", "--storage", tmp_path, "--tracking", f"sqlite:///{tmp_path}/m.db", "--output", tmp_path
    )
    lines = called.out.splitlines()
    assert all(line.startswith(("ok", "warn", "WRONG")) for line in lines)
    assert any("storage" in line for line in lines)
    assert called.code == (1 if any(line.startswith("WRONG") for line in lines) else 0)
    (tmp_path / "file").touch()
    assert call("doctor", "--storage", tmp_path / "file" / "x").code == 1


def test_the_folder_and_the_bank_are_those_of_the_experiment(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(f"output: {tmp_path / 'elsewhere'}\ndata: {{name: digits, views: 0}}\n")
    _, _, output, need = doctor._of_config(str(file))
    assert (output, need) == (tmp_path / "elsewhere", 0)


def test_command_refuses_a_cluster_file_with_placeholders() -> None:
    called = call("doctor", "--cluster", Path(__file__).parents[2] / "clusters" / "aws.yaml")
    assert called.code == 1
    assert "placeholder CHANGE-ME" in called.out


def test_a_node_that_does_not_answer_is_named(local_ray: None, tmp_path: Path) -> None:
    import ray

    (node,) = ray.nodes()
    with pytest.raises(UserError, match=f"{node['NodeManagerAddress']} does not answer"):
        probe_all_nodes("", str(tmp_path), timeout=0.0)
    (report,) = probe_all_nodes("", str(tmp_path))
    assert report.python

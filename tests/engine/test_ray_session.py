"""Addresses of Ray clusters: which are checked, and how wrong ones are refused."""

import socket

import pytest
import ray

from tkd_search.engine.ray_session import check_address, ray_session, resolve_address
from tkd_search.errors import UserError


@pytest.mark.parametrize("address", ["foo", "http://127.0.0.1:8265"])
def test_an_invalid_address_is_refused(monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(UserError, match=f"--address {address}: found no Ray there") as refused,
        ray_session(address),
    ):
        pass
    assert "auto" in str(refused.value)


@pytest.mark.parametrize(
    "form", ["127.0.0.1:{}", "localhost:{}", "ray://127.0.0.1:{}", "ray://127.0.0.1:{}/"]
)
def test_an_address_without_a_listener_is_refused_at_once(monkeypatch, form):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = form.format(server.getsockname()[1])
        check_address(address)
    with (
        pytest.raises(UserError, match=f"--address {address}: found no listener") as refused,
        ray_session(address),
    ):
        pass
    assert "ray start --head" in str(refused.value)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:99999", "ray://[::1]:1", "no-such-host.invalid:6379", "a..b:1"]
)
def test_invalid_hosts_and_ports_are_refused(monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UserError, match="no listener"):
        check_address(address)


def test_auto_checks_the_address_in_ray_address(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    with pytest.raises(UserError, match=r"--address auto: found no listener at 127\.0\.0\.1:1"):
        check_address("auto")


def test_on_the_head_of_a_cluster_a_run_joins_it(monkeypatch, tmp_path):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert resolve_address(None) is None
    monkeypatch.setenv("TKD_CLUSTER_FILE", str(tmp_path / "absent.yaml"))
    assert resolve_address(None) is None
    (tmp_path / "cluster.yaml").write_text("cluster_name: c\n")
    monkeypatch.setenv("TKD_CLUSTER_FILE", str(tmp_path / "cluster.yaml"))
    assert resolve_address(None) == "auto"
    assert resolve_address("local") is None


def test_other_forms_and_an_existing_connection_are_not_checked(monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address in (None, "local", "auto", "foo", "http://127.0.0.1:1", "anyscale://x:1"):
        check_address(address)
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    check_address("127.0.0.1:1")

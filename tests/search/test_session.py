"""Joining Ray by its address."""

import pytest
import ray

from tkd_search.errors import UserError
from tkd_search.search.session import ray_session


@pytest.mark.parametrize("address", ["foo", "http://127.0.0.1:8265"])
def test_what_is_no_address_of_a_cluster_is_refused(monkeypatch, address):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with (
        pytest.raises(UserError, match=f"--address {address}: found no Ray there") as refused,
        ray_session(address),
    ):
        pass
    assert "auto" in str(refused.value)

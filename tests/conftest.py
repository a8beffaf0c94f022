"""What all tests share: one quiet local Ray for those that need it, one thread per process."""

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")

import pytest

if TYPE_CHECKING:
    from tkd_search.data import DataBundle


@pytest.fixture(scope="session")
def local_ray() -> Iterator[None]:
    """An own Ray with two cores, started once for the whole session."""
    from tkd_search.engine.ray_session import ray_session

    with ray_session(None):
        yield


@pytest.fixture(scope="session")
def digits() -> "DataBundle":
    """The digits with default settings."""
    from tkd_search.data import DataSettings, load_data

    return load_data(DataSettings())

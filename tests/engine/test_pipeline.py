"""A data set stored for the workers, on a disk that has no room for it."""

import pytest

from tests.full_disk import limited

SCRIPT = """
import sys
from tkd_search.config.experiment_file import load_config
from tkd_search.data import load_data
from tkd_search.engine.pipeline import store_data
from tkd_search.files import DiskFullError
data = load_data(load_config(None, []).settings().data)
try:
    print(store_data(data, sys.argv[1]))
except DiskFullError as error:
    print(error)
"""


@pytest.mark.parametrize("limit", [100, 20_000])  # the first labels, the first images
def test_a_disk_that_is_full_is_stated_and_leaves_no_part(tmp_path, limit):
    cache = tmp_path / "cache"
    done = limited(limit, "-c", SCRIPT, cache, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{cache}/data-")
    assert "found a full disk (File too large)" in done.stdout
    assert list(cache.iterdir()) == []
    again = limited(10**9, "-c", SCRIPT, cache, cwd=tmp_path)
    assert again.stdout.splitlines() == [str(folder) for folder in cache.iterdir()]

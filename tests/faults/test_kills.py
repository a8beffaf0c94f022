"""One search suffers one fault of every kind (``python -m tests.faults.matrix``: five of each)."""

import random

import pytest

from tests.faults.kinds import KINDS, strike
from tests.faults.searched import FaultySearch, losses

pytestmark = [pytest.mark.faults, pytest.mark.exhaustive, pytest.mark.timeout(3600)]


def test_a_search_that_suffers_every_fault_loses_and_doubles_nothing(tmp_path):
    draw = random.Random(0)
    kinds = draw.sample(sorted(KINDS), len(KINDS))
    search = FaultySearch(tmp_path, trials=16, seed=0)
    try:
        search.start()
        assert search.wait_for_events(1)
        suffered = [kind for kind in kinds if strike(search, kind, draw) is not None]
        assert suffered == kinds, "the search ended before every fault was done"
        while not search.ended():
            search.wait_for_events(1)
        search.report()
        assert losses(search) == (0, 0)
    finally:
        search.close()

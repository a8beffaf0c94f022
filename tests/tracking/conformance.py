"""What every Tracker must do; inherit from TrackerConformance and give it a ``tracker`` factory."""

import pickle

from tests.tracking.synthetic import synthetic_start, tell_all
from tkd_search.tracking import Leftover, StoreIds


class TrackerConformance:
    """Inherit, and override :meth:`open`."""

    def open(self, folder, database):
        """A tracker for a search in ``folder``."""
        raise NotImplementedError

    def test_takes_a_whole_search_and_leaves_nothing(self, folder, record, database):
        tracker = self.open(folder, database)
        tell_all(tracker, record, folder)
        assert tracker.close(timeout=60) == Leftover()

    def test_takes_the_same_search_twice(self, folder, record, database):
        for _ in range(2):
            tracker = self.open(folder, database)
            tell_all(tracker, record, folder)
            assert not str(tracker.close(timeout=60))
        self.check(record, database)

    def check(self, record, database):
        """Look into the store, where there is one."""

    def test_an_opened_and_closed_tracker_writes_nothing(self, folder, record, database):
        assert self.open(folder, database).close(timeout=5) == Leftover()

    def test_ids_are_strings_at_any_time(self, folder, record, database):
        tracker = self.open(folder, database)
        assert isinstance(tracker.ids(), StoreIds)
        tracker.search_started(synthetic_start())
        assert isinstance(tracker.ids(), StoreIds)
        tracker.close(timeout=60)

    def test_what_close_returns_can_travel(self, folder, record, database):
        left = self.open(folder, database).close(timeout=5)
        assert pickle.loads(pickle.dumps(left)) == left

"""Batches that are read ahead come in order, errors at their batch, and no thread outlives the loop."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_search.distill.training.read_ahead import DEPTH, read_ahead


@given(st.lists(st.integers()))
def test_every_item_comes_in_order_with_its_result(items: list[int]) -> None:
    assert list(read_ahead(items, lambda item: item * 2)) == [(item, item * 2) for item in items]
    assert list(read_ahead(items, None)) == [(item, None) for item in items]


def test_so_many_items_are_read_before_the_first_is_used() -> None:
    read: list[int] = []
    ahead = read_ahead(range(100), read.append)
    next(ahead)
    ahead.close()  # waits for the reading that has begun
    assert 1 <= len(read) <= DEPTH + 1
    assert read == sorted(read)
    assert not any(thread.name.startswith("read-ahead") for thread in threading.enumerate())


def test_an_error_is_raised_at_its_item() -> None:
    ahead = read_ahead([1, 0, 2], lambda item: 1 // item)
    assert next(ahead) == (1, 1)
    with pytest.raises(ZeroDivisionError):
        next(ahead)

"""The phases of a training: which epochs round, and before which teachers are selected."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tkd_search.distill import TrainSettings
from tkd_search.distill.quantization.number_format import Format
from tkd_search.distill.training.reselection import selection_due
from tkd_search.distill.training.rounding_schedule import first_rounded_epoch


@pytest.mark.parametrize(
    ("format", "quantise", "first"),
    [("int8", 0.25, 6), ("int4", 0.5, 4), ("int4", 0.01, 7), ("int8", 0.0, 8), ("fp16", 0.5, 8)],
)
def test_the_last_share_of_the_epochs_rounds(format: Format, quantise: float, first: int) -> None:
    assert first_rounded_epoch(format, TrainSettings(epochs=8, quantise=quantise)) == first


@given(st.integers(1, 60), st.floats(0.01, 1.0))
def test_teachers_are_selected_first_after_an_epoch_and_then_regularly(epochs: int, every: float) -> None:
    due = [epoch for epoch in range(epochs) if selection_due(epoch, epochs, every)]
    assert due[:2] == [0, 1][:epochs]
    assert {epoch % max(1, round(every * epochs)) for epoch in due if epoch != 1} == {0}

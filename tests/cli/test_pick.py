import dataclasses
import json
import math

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.calling import call
from tests.tracking.synthetic import synthetic_search
from tkd_search.cli.option_types import MILLISECONDS, SHARE, SIZE
from tkd_search.results.select import Constraints, knee_of, nearest_miss, select

FRONT = synthetic_search().front
LIMITS = st.none() | st.floats(0.01, 1)
CONSTRAINTS = st.builds(
    lambda b, a, r, lat: Constraints(
        max_bytes=b and b * 3e6, min_accuracy=a, max_ratio=r, max_latency=lat and lat * 10
    ),
    *[LIMITS] * 4,
)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (SIZE, "500kB", 500_000),
        (SIZE, "500 kb", 500_000),
        (SIZE, "1.5MB", 1_500_000),
        (SIZE, "2KiB", 2048),
        (SIZE, "128000", 128_000),
        (MILLISECONDS, "5ms", 5),
        (MILLISECONDS, "0.2s", 200),
        (MILLISECONDS, "250µs", 0.25),
        (SHARE, "0.97", 0.97),
        (SHARE, "10%", 0.1),
    ],
)
def test_quantities(kind, text, value):
    assert kind.convert(text, None, None) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "kB", "-5kB", "5 parsecs", "1e", "5,5MB", "nan", "1.2.3"])
def test_a_text_that_is_no_quantity_is_refused(text):
    with pytest.raises(click.BadParameter, match="500kB"):
        SIZE.convert(text, None, None)


@pytest.mark.parametrize("text", ["30", "300%"])
def test_a_share_above_one_is_refused(text):
    with pytest.raises(click.BadParameter, match="97%"):
        SHARE.convert(text, None, None)


@given(limits=CONSTRAINTS, knee=st.booleans())
def test_the_choice_is_within_every_limit_and_none_only_if_no_member_is(limits, knee):
    chosen = select(FRONT, limits, knee=knee)
    fitting = [member for member in FRONT if not limits.misses(member)]
    if chosen is None:
        assert not fitting
    else:
        assert chosen in fitting
        if not knee and limits.min_accuracy is None:
            assert chosen.val_accuracy == max(one.val_accuracy for one in fitting)
        if not knee and limits.min_accuracy is not None:
            assert chosen.bytes == min(one.bytes for one in fitting)


@given(limits=CONSTRAINTS, order=st.permutations(range(len(FRONT))))
def test_the_order_of_the_front_does_not_matter(limits, order):
    shuffled = [FRONT[place] for place in order]
    for knee in (False, True):
        assert select(shuffled, limits, knee=knee) == select(FRONT, limits, knee=knee)


@given(size=st.floats(1, min(one.bytes for one in FRONT) - 1), accuracy=LIMITS, latency=LIMITS)
def test_the_nearest_miss_has_the_smallest_worst_miss(size, accuracy, latency):
    limits = Constraints(max_bytes=size, min_accuracy=accuracy, max_latency=latency and latency * 10)
    assert select(FRONT, limits) is None
    nearest = nearest_miss(FRONT, limits)
    worst = max(limits.misses(nearest).values())
    assert worst > 0
    assert all(max(limits.misses(one).values()) >= worst for one in FRONT)


def test_test_accuracy_does_not_matter():
    swapped = [dataclasses.replace(one, test_accuracy=1 - one.test_accuracy) for one in FRONT]
    for knee in (False, True):
        limits = Constraints(max_ratio=0.2)
        assert select(swapped, limits, knee=knee).trial_id == select(FRONT, limits, knee=knee).trial_id


def corner(sizes, accuracies):
    return [
        dataclasses.replace(FRONT[0], trial_id=str(place), bytes=size, val_accuracy=accuracy)
        for place, (size, accuracy) in enumerate(zip(sizes, accuracies, strict=True))
    ]


def test_the_knee_is_where_the_curve_bends():
    front = corner([100, 1000, 10_000, 100_000], [0.5, 0.95, 0.96, 0.97])
    assert knee_of(front).trial_id == "1"
    assert knee_of(front[:2]).trial_id == "1"
    assert knee_of(front[:1]).trial_id == "0"


def test_a_latency_that_was_not_measured_is_above_every_limit():
    limits = Constraints(max_latency=5, batch=64)
    assert math.isinf(max(limits.misses(FRONT[0]).values()))


def test_pick_prints_the_member_and_its_path(output):
    done = call("pick", "runs/digits", "--max-ratio", "10%")
    assert done.code == 0
    trial = done.out.split()[0]
    assert done.out.splitlines()[-1] == f"runs/digits/students/{trial}"
    best = max((one for one in FRONT if one.ratio <= 0.1), key=lambda one: one.val_accuracy)
    assert trial == best.trial_id
    assert (
        call("pick", "digits", "--max-ratio", "0.1", "--quiet").out.strip() == f"runs/digits/students/{trial}"
    )
    plain = json.loads(call("pick", "runs/digits", "--max-ratio", "0.1", "--json").out)
    assert plain["trial_id"] == trial


def test_pick_without_a_fitting_student_prints_the_nearest_and_exits_with_one(output):
    done = call("pick", "runs/digits", "--max-bytes", "100kB")
    assert done.code == 1
    assert not done.out
    assert "Nearest miss" in done.err
    assert "is above --max-bytes 100 kB" in done.err
    smallest = min(FRONT, key=lambda one: one.bytes)
    assert smallest.trial_id in done.err


def test_pick_without_a_limit_is_refused(output):
    done = call("pick", "runs/digits")
    assert done.code == 2
    assert "--knee" in done.err


def test_pick_needs_only_the_summary(output):
    (output / "digits" / "record.json").unlink()
    assert call("pick", "runs/digits", "--knee").code == 0
    done = call("pick", "runs/digits", "--max-latency", "5ms")
    assert done.code == 1
    assert "not measured: --max-latency 5 ms for batch 1" in done.err


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        (["--max-ratio", "1%"], "is above --max-ratio 1.00%"),
        (["--min-accuracy", "99.9%"], "is below --min-accuracy 99.90%"),
        (["--max-latency", "1ms"], "ms is above --max-latency 1 ms for batch 1"),
        (["--max-latency", "1ms", "--batch", "7"], "not measured: --max-latency 1 ms for batch 7"),
    ],
)
def test_a_miss_says_what_there_is_and_what_was_asked(output, limits, words):
    done = call("pick", "digits", *limits)
    assert done.code == 1
    assert words in done.err

"""What is refused before anything starts, though no single setting shows it."""

import pytest

from tkd_search.config import load_config
from tkd_search.data import load_data
from tkd_search.errors import UserError
from tkd_search.search.checks import check_search


@pytest.fixture(scope="module")
def data():
    return load_data(load_config(None, []).settings().data)


def test_the_default_experiment_fits(data):
    assert check_search(load_config(None, []), data) > 1


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("search.sampler=tpee", ["search.sampler", "tpee", "nsga2"]),
        ("search.sampler_args={foo: 1}", ["search.sampler", "foo"]),
        ("search.learning=foo", ["search.learning", "extrapolated"]),
        ("search.rule_args={foo: 1}", ["search.rule", "foo"]),
        ("search.warm_start=[nobody]", ["search.warm_start", "nobody"]),
        ("student.name=shufflenet", ["student.name", "shufflenet_v2_x1_0"]),
        ("bank.taps=[nowhere]", ["nowhere"]),
        ("method.local=4", ["bank.grid", "method.local", "bank.grid=4"]),
        ("method.stage_feature={choice: [0, 12]}", ["bank.grid", "method.stage_feature"]),
        ("method.name={choice: [kd, at]}", ["bank.grid", "method.name = at"]),
    ],
)
def test_a_wrong_part_is_named_with_what_is_allowed(data, setting, words):
    with pytest.raises(UserError) as refused:
        check_search(load_config(None, [setting]), data)
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize(
    ("name", "args"), [("squeezenet1_1", "{}"), ("tkd_search.models.plain:plain_cnn", "{in_channels: 1}")]
)
def test_a_size_that_the_student_does_not_have_cannot_be_searched(data, name, args):
    given = [f"student.args={args}", "student.depth=1", f"student.name={name}"]
    with pytest.raises(UserError, match=r"student\.width.*\n.*a fixed value"):
        check_search(load_config(None, given), data)


def test_terms_at_places_that_no_trial_can_use_need_no_cells(data):
    for given in (["method.name=kd", "method.local=4"], ["bank.grid=4", "method.local=4"]):
        assert check_search(load_config(None, given), data) > 1

"""Checks before a search of the students that it may propose."""

import pytest
import torch

from tkd_search.config.experiment_file import load_config
from tkd_search.engine.search_checks import check_search
from tkd_search.errors import UserError
from tkd_search.export import format_support
from tkd_search.formats import onnx_writer


def test_students_without_a_pooled_map_are_named_where_the_method_reads_one(data):
    given = [
        "student.name={choice: [cut, mobilenet_v2]}",
        "method.name={choice: [at, tkd]}",
        "method.local=1.0",
        "bank.grid=4",
    ]
    notes = check_search(load_config(None, given), data).notes
    (note,) = [note for note in notes if "pool one feature map" in note]
    assert note.startswith("cut does not")  # AlexNet has hidden layers behind its maps
    assert note.endswith("method at (it trains as kd), method.local")
    assert "pool one" not in "".join(check_search(load_config(None, ["method.name=kd"]), data).notes)


CUT = ["student.name=cut", "student.depth=1", "student.args={}"]


def test_students_cut_from_the_big_model_pass(data):
    settings = [*CUT, "student.importance={choice: [magnitude, taylor]}", "student.width={float: [0.1, 0.5]}"]
    checked = check_search(load_config(None, settings), data)
    assert {student.importance for student in checked.students} == {"magnitude", "taylor"}


def test_arguments_and_ratios_stand_beside_each_other(data):
    settings = ["student.name={choice: [cut, mobilenet_v2]}", "student.args={dropout: 0.1}"]
    ratios = ["student.ratios={classifier: {float: [0.1, 0.3]}}"]
    names = [student.name for student in check_search(load_config(None, [*settings, *ratios]), data).students]
    assert {"cut", "mobilenet_v2"} == set(names)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["student.args={dropout: 0.1}"], ["student.args.dropout", "no arguments"]),
        (["student.args={a: 1}", "student.depth=0.5"], ["student.args={} --set student.depth=1.0"]),
        (["student.ratios=[0.5]"], ["student.ratios", "one for each stage"]),
        (["student.depth=2"], ["student.depth", "cut has no depth"]),
        (["student.width=2"], ["student.width", "2"]),
        (["big_model.name=shufflenet_v2_x0_5", "big_model.width=1"], ["cut", "big model does not allow"]),
        (["student.importance=size"], ["student.importance", "magnitude"]),
        (["big_model.stem=original", "big_model.width=1"], ["big_model.name", "alexnet"]),
    ],
)
def test_cuts_that_cannot_be_made_are_refused(data, settings, words):
    with pytest.raises(UserError) as refused:
        check_search(load_config(None, [*CUT, *settings]), data)
    for word in words:
        assert word in str(refused.value)


def test_a_fixed_width_that_the_student_does_not_have_is_refused(data):
    given = ["student.name=squeezenet1_1", "student.depth=1", "student.width=0.2", "student.args={}"]
    with pytest.raises(UserError, match=r"student\.width: found 0\.2\n.*has no width\n.*width=0\.25"):
        check_search(load_config(None, given), data)


@pytest.mark.parametrize(
    ("name", "args"), [("squeezenet1_1", "{}"), ("tkd_search.models.plain:plain_cnn", "{in_channels: 1}")]
)
def test_searching_a_width_that_the_student_does_not_have_is_refused(data, name, args):
    given = [f"student.args={args}", "student.depth=1", f"student.name={name}"]
    with pytest.raises(UserError, match=r"student\.width.*\n.*has no width"):
        check_search(load_config(None, given), data)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            ["student.name={choice: [mobilenet_v2, mobilenet_v7]}"],
            ["student.name", "mobilenet_v7", "nearest"],
        ),
        (["student.name={choice: [mobilenet_v2, 'nopackage:x']}"], ["student.name", "nopackage"]),
        (["student.args={wdth: {int: [2, 4]}}"], ["student.args", "wdth"]),
        ([f"student.name={__name__}:half", "student.args={share: {choice: [0.9, 0.1]}}"], ["too narrow"]),
    ],
)
def test_an_option_without_a_buildable_student_is_refused(data, given, words):
    with pytest.raises(UserError) as refused:
        check_search(load_config(None, [*given, "student.width=0.25", "student.depth=1"]), data)
    for word in words:
        assert word in str(refused.value)


def test_an_own_student_whose_file_knows_one_number_of_images_alone_is_refused(data):
    name = [f"student.name={__name__}:fixed", "student.args={}", "student.width=0.25", "student.depth=1"]
    with pytest.raises(UserError, match=r"(?s)fixed, whose ONNX file fails.*x\.shape\[0\]"):
        check_search(load_config(None, name), data)


class Fixed(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, images):
        return self.layer(images.reshape(len(images), 64))


def fixed(num_classes):
    return Fixed()


def test_options_and_sizes_that_fail_only_for_some_students_pass(data):
    """``half`` is a network with a least width."""
    name = f"student.name={{choice: ['{__name__}:half', '{__name__}:plain']}}"
    args = "student.args={share: {float: [0.1, 0.9]}}"
    assert (
        check_search(load_config(None, [name, args, "student.width=0.25", "student.depth=1"]), data).taps > 1
    )


def half(num_classes, share):
    if share < 0.6:
        raise ValueError("too narrow")
    return plain(num_classes, share)


def plain(num_classes, share):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, num_classes))


FAST = "search.sampler=random"


def test_int4_is_refused_before_anything_starts_where_onnxruntime_does_not_run_it(data, monkeypatch):
    """No onnxruntime runs a file of an opset that does not exist."""
    monkeypatch.setitem(onnx_writer.OPSET, "int4", 999)
    for given in ("int4", "{choice: [int8, int4]}"):
        format_support.int4_problem.cache_clear()
        with pytest.raises(UserError) as refused:
            check_search(load_config(None, [f"student.format={given}", FAST]), data)
        for word in ("student.format: found int4", "onnxruntime", "999", "allowed: fp32, fp16, int8"):
            assert word in str(refused.value)
    check_search(load_config(None, ["student.format={choice: [fp16, int8]}", FAST]), data)
    monkeypatch.undo()
    format_support.int4_problem.cache_clear()
    assert format_support.int4_problem() == ""


def recurrent(num_classes):
    return Recurrent(num_classes)


class Recurrent(torch.nn.Module):
    """Reads the rows of an image by a layer that no format rounds."""

    def __init__(self, num_classes):
        super().__init__()
        self.cell = torch.nn.GRU(8, 32, batch_first=True)
        self.head = torch.nn.Linear(32, num_classes)

    def forward(self, images):
        return self.head(self.cell(images[:, 0])[0][:, -1])


def test_weights_that_a_format_does_not_round_are_named_with_their_share(data):
    own = [f"student.name={__name__}:recurrent", "student.width=0.25", "student.depth=1", "student.args={}"]

    def notes(given):
        return check_search(load_config(None, [*own, f"student.format={given}", FAST]), data).notes

    (note,) = notes("{choice: [fp16, int8, int4]}")
    share = (3 * 32 * (8 + 32)) / (3 * 32 * (8 + 32 + 2) + 32 * 10 + 10)
    assert f"{share:.1%} of the parameters stay in fp16 with student.format int8 and int4" in note
    assert "cell.weight_hh_l0, cell.weight_ih_l0" in note
    assert notes("fp16") == ()
    assert check_search(load_config(None, ["student.format=int8", FAST]), data).notes == ()


def test_a_timm_student_needs_no_width(data):
    given = ["student.name=timm/lcnet_050", "student.args={}", "student.depth=1", "method.k=1"]
    for width in ("0.25", "1"):
        assert check_search(load_config(None, [*given, f"student.width={width}"]), data).taps
    with pytest.raises(UserError, match="has no width"):
        check_search(load_config(None, [*given, "student.width=0.5"]), data)

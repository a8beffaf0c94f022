"""Students cut from F through their settings: sizes before training, weights, and the record."""

import json

import pytest
import torch

from tkd_search.errors import UserError
from tkd_search.formats import FORMATS, shipped_bytes
from tkd_search.models import build_big_model, build_student, cut_student
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.models.student_architecture import check_cut_settings

SHAPE = {"classes": 4, "channels": 3, "size": 32}
BIG = BigModelSettings(name="resnet18", width=0.25)


def batches(count=2):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        yield torch.randn(32, 3, 32, 32, generator=generator), torch.arange(32) % 4


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return build_big_model(BIG, **SHAPE).eval()


def made(trained, **settings):
    return cut_student(
        StudentSettings(name="cut", **settings), trained, BIG, **SHAPE, batches=batches(), seed=3
    )


def shapes(student):
    return {name: tuple(tensor.shape) for name, tensor in student.model.state_dict().items()}


@pytest.mark.parametrize("importance", ["magnitude", "bn_scale", "taylor", "random"])
@pytest.mark.parametrize("ratios", [None, {"layer4": 0.1}])
def test_the_size_is_known_before_and_the_record_rebuilds_it(trained, importance, ratios):
    student, record = made(trained, width=0.4, importance=importance, ratios=ratios)
    settings = StudentSettings(name="cut", width=0.4, ratios=ratios)
    before = build_student(settings, **SHAPE, big_model=BIG)
    rebuilt = build_student(settings, **SHAPE, record=json.loads(json.dumps(record)))
    assert shapes(student) == shapes(before) == shapes(rebuilt)
    for format in FORMATS:
        assert shipped_bytes(student.model, format) == shipped_bytes(before.model, format)
    rebuilt.model.load_state_dict(student.model.state_dict())
    images, _ = next(batches())
    assert torch.equal(student(images).logits, rebuilt.eval()(images).logits)


def test_a_cut_that_keeps_all_is_the_big_model(trained):
    student, record = made(trained, width=1.0)
    assert record["removed"] == {}
    for name, parameter in trained.named_parameters():
        assert torch.equal(parameter, student.get_parameter(name)), name


def test_the_importance_random_follows_the_seed(trained):
    settings = StudentSettings(name="cut", width=0.5, importance="random")
    removed = [
        cut_student(settings, trained, BIG, **SHAPE, batches=batches(), seed=seed)[1]["removed"]
        for seed in (1, 1, 2)
    ]
    assert removed[0] == removed[1] != removed[2]


def test_weights_decide_the_stem_of_the_record(tmp_path):
    from tkd_search.models import save_weights

    torch.manual_seed(0)
    original = BigModelSettings(name="resnet18", width=0.25, stem="original")
    network = build_big_model(original, **SHAPE)
    save_weights(network.model, tmp_path / "f.safetensors")
    given = BigModelSettings(name="resnet18", width=0.25, weights=str(tmp_path / "f.safetensors"))
    student, record = cut_student(
        StudentSettings(name="cut", width=0.5), network, given, **SHAPE, batches=batches(), seed=0
    )
    assert record["big_model"]["stem"] == "original"
    assert shapes(student) == shapes(build_student(StudentSettings(name="cut"), **SHAPE, record=record))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"width": 1.5}, "student.width"),
        ({"ratios": [0.5]}, "student.ratios"),
        ({"ratios": {"layer9": 0.5}}, "student.ratios"),
    ],
)
def test_settings_that_a_cut_does_not_have_are_refused(settings, key):
    with pytest.raises(UserError, match=key):
        build_student(StudentSettings(name="cut", **settings), **SHAPE, big_model=BIG)


def test_a_big_model_that_cannot_be_cut_is_refused():
    with pytest.raises(UserError, match="cut, which the big model does not allow"):
        check_cut_settings(BigModelSettings(name="shufflenet_v2_x0_5"), ["magnitude"], **SHAPE)


def test_bn_scale_needs_batch_normalisation():
    with pytest.raises(UserError, match=r"student\.importance"):
        check_cut_settings(BigModelSettings(name="vgg11", width=0.1), ["bn_scale"], **SHAPE)


def test_a_damaged_record_is_refused():
    with pytest.raises(UserError, match=r"cut\.json"):
        build_student(StudentSettings(name="cut"), **SHAPE, record={"big_model": {"name": "resnet18"}})

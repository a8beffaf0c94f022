"""A student starts from a pretrained network of its kind: equal, wider, or with another head."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tkd_search.errors import UserError
from tkd_search.models import build_student
from tkd_search.models.model_settings import StudentSettings
from tkd_search.models.student import Student
from tkd_search.models.weight_selection import select_weights, start_from

IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def student(name: str, classes: int = 10, channels: int = 3, **knobs: object) -> Student:
    made = StudentSettings(name=name, **knobs)
    return build_student(made, classes=classes, channels=channels, size=32).eval()


def started(target: Student, source: Student, name: str) -> int:
    return start_from(target, source.model.state_dict(), name, where="student.weights", source="the file")


@settings(max_examples=50)
@given(rows=st.integers(1, 12), columns=st.integers(1, 12), data=st.data())
def test_axes_take_evenly_spaced_positions_with_both_ends(
    rows: int, columns: int, data: st.DataObject
) -> None:
    wide = torch.arange(rows * columns).view(rows, columns)
    shape = data.draw(st.tuples(st.integers(1, rows), st.integers(1, columns)))
    chosen = select_weights({"w": wide}, {"w": torch.zeros(shape, dtype=torch.long)})["w"]
    assert chosen.shape == shape
    down, right = (chosen // columns)[:, 0], (chosen % columns)[0]
    for positions, there in ((down, rows), (right, columns)):
        steps = positions.diff()
        assert positions[0] == 0
        assert len(positions) == 1 or positions[-1] == there - 1
        assert (steps > 0).all()
        assert not len(steps) or steps.max() - steps.min() <= 1


def test_equal_shapes_take_all_values_and_kernels_their_middle() -> None:
    kernel = torch.randn(4, 3, 7, 7)
    own: dict[str, Tensor] = {
        "equal": kernel,
        "small": torch.zeros(4, 3, 3, 3),
        "large": torch.zeros(4, 3, 9, 9),
    }
    chosen = select_weights(dict.fromkeys(own, kernel), own)
    assert torch.equal(chosen["equal"], kernel)
    assert torch.equal(chosen["small"], kernel[:, :, 2:5, 2:5])
    assert "large" not in chosen


@pytest.mark.parametrize("name", ["self_attention.in_proj_weight", "blocks.0.attn.qkv.weight"])
def test_queries_keys_and_values_take_the_same_positions(name: str) -> None:
    wide = torch.arange(12.0)[:, None].repeat(1, 3)
    rows = select_weights({name: wide}, {name: torch.zeros(6, 3)})[name][:, 0]
    assert rows.tolist() == [0, 3, 4, 7, 8, 11]


def test_a_narrow_position_embedding_reads_the_channels_of_the_patches() -> None:
    wide = torch.arange(9.0).view(1, 1, 9)
    assert select_weights({"p": wide}, {"p": torch.zeros(1, 1, 3)})["p"].flatten().tolist() == [0, 4, 8]


@pytest.mark.parametrize("name", ["mobilenet_v2", "timm/lcnet_050"])
def test_an_equal_network_computes_the_same(name: str) -> None:
    source, target = student(name, width=1.0), student(name, width=1.0)
    assert started(target, source, name) == len(source.model.state_dict())
    assert torch.equal(target(IMAGES).logits, source(IMAGES).logits)


def test_a_head_for_other_classes_stays_random() -> None:
    source, target = student("mobilenet_v2", classes=20), student("mobilenet_v2", classes=10)
    before = target.model.classifier[1].weight.clone()
    started(target, source, "mobilenet_v2")
    assert torch.equal(target.model.classifier[1].weight, before)
    torch.testing.assert_close(target(IMAGES).features, source(IMAGES).features)


@pytest.mark.parametrize(
    "name", ["mobilenet_v2", "resnet18", "efficientnet_b0", "shufflenet_v2_x0_5", "vit_b_16"]
)
def test_a_narrower_student_takes_a_part(name: str) -> None:
    source = student(name, width=0.25)
    target = student(name, width=0.1, classes=7)
    assert started(target, source, name) == len(target.model.state_dict()) - 2
    assert target(IMAGES).logits.isfinite().all()


def test_channels_of_the_first_layer_that_are_kept_compute_what_they_did() -> None:
    source, target = student("vgg11", width=0.25), student("vgg11", width=0.125)
    wide, narrow = source.model.features[0], target.model.features[0]
    started(target, source, "vgg11")
    kept = torch.linspace(0, wide.out_channels - 1, narrow.out_channels).round().long()
    torch.testing.assert_close(narrow(IMAGES), wide(IMAGES)[:, kept])


def test_colour_kernels_are_summed_for_grey_images() -> None:
    source, target = student("mobilenet_v2"), student("mobilenet_v2", channels=1)
    started(target, source, "mobilenet_v2")
    torch.testing.assert_close(
        target(IMAGES[:, :1]).logits, source(IMAGES[:, :1].expand(-1, 3, -1, -1)).logits
    )


def test_weights_of_another_architecture_are_refused() -> None:
    with pytest.raises(UserError, match=r"student\.weights: found the file, which holds"):
        started(student("mobilenet_v2"), student("resnet18"), "mobilenet_v2")

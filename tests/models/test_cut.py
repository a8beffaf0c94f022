"""Students cut from F: what stays computes as before, sizes are known beforehand, records rebuild the cut."""

import copy
import json
from collections.abc import Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from tests.models.cut_networks import CLASSES, FAMILIES, SIZE, fresh, images, labelled, made, shapes
from tests.models.nets import DropoutHead, FunctionalPool, NoLinear, Tied
from tkd_search.distill.training.evaluation import recalibrate
from tkd_search.errors import UserError
from tkd_search.models.architectures.families import ModelSpec
from tkd_search.models.build import build_network
from tkd_search.models.cuts import apply_cut, check_cut, cut, find_groups
from tkd_search.models.cuts.channel_importance import IMPORTANCES
from tkd_search.models.depthwise import SmallMapDepthwise, speed_up_depthwise
from tkd_search.models.pointwise import SlicedPointwise, slice_pointwise
from tkd_search.models.size import model_bytes
from tkd_search.models.student import Student


@pytest.mark.parametrize("name", FAMILIES)
class TestFamilies:
    def test_the_cut_computes_what_the_network_computes_without_the_removed_channels(self, name: str) -> None:
        network, _ = made(name)
        check_cut(network, images())

    def test_the_cut_trains_and_keeps_its_classes(self, name: str) -> None:
        network, groups = made(name)
        student = cut(network, images(), width=0.5, groups=groups).network.train()
        logits = student(images(4))
        logits.sum().backward()
        assert logits.shape == (4, CLASSES)
        assert all(parameter.grad is not None for parameter in student.parameters())
        assert all(parameter.grad.shape == parameter.shape for parameter in student.parameters())

    def test_a_wider_cut_is_larger(self, name: str) -> None:
        network, groups = made(name)
        widths = (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
        sizes = [
            model_bytes(cut(network, images(), width=width, importance="random", groups=groups).network)
            for width in widths
        ]
        assert all(small < large for small, large in pairwise(sizes))
        assert sizes[-1] == model_bytes(network)
        assert sizes[2] < 0.4 * sizes[-1]

    def test_the_shapes_are_those_of_every_importance(self, name: str) -> None:
        network, groups = made(name)
        expected = cut(network, images(), width=0.4, importance="random", groups=groups).network
        for importance in IMPORTANCES:
            student = cut(
                network, images(), width=0.4, importance=importance, batches=labelled(), groups=groups
            ).network
            assert shapes(student) == shapes(expected)

    def test_the_record_rebuilds_the_cut_to_the_bit(self, name: str) -> None:
        network, groups = made(name)
        one = cut(network, images(), width=0.6, importance="random", seed=3, groups=groups)
        record = json.loads(json.dumps(one.record))
        rebuilt = apply_cut(fresh(name), record)
        assert str(rebuilt) == str(one.network)
        rebuilt.load_state_dict(one.network.state_dict(), strict=True)
        assert torch.equal(rebuilt.eval()(images()), one.network.eval()(images()))
        assert shapes(apply_cut(fresh(name, "meta"), record)) == shapes(one.network)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "vit_b_16"])
class TestTracing:
    def test_the_network_itself_stays(self, name: str) -> None:
        network, groups = made(name)
        before = copy.deepcopy(network.state_dict())
        modes = [module.training for module in network.modules()]
        cut(network, images(), width=0.3, importance="taylor", batches=labelled(), groups=groups)
        find_groups(network, images())
        assert [module.training for module in network.modules()] == modes
        assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())

    def test_the_whole_width_removes_nothing(self, name: str) -> None:
        network, groups = made(name)
        one = cut(network, images(), width=1.0, groups=groups)
        assert one.record["removed"] == {}
        assert torch.equal(one.network.eval()(images()), copy.deepcopy(network).eval()(images()))

    def test_the_graph_on_the_meta_device_is_the_same(self, name: str) -> None:
        _, groups = made(name)
        meta = find_groups(fresh(name, "meta"), images().to("meta"))
        assert [(group.name, group.channels, group.side) for group in meta] == [
            (group.name, group.channels, group.side) for group in groups
        ]


class Concatenation(nn.Module):
    """A layer reads the channels of two others side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 6, 1), nn.Conv2d(3, 10, 3, 1, 1)
        self.both, self.head = nn.Conv2d(16, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, given: Tensor) -> Tensor:
        maps = torch.cat([self.left(given), self.right(given)], 1)
        return self.head(self.both(maps.relu()).mean((2, 3)))


class TestOtherNetworks:
    @pytest.mark.parametrize("network", [FunctionalPool(), DropoutHead(), NoLinear(), Concatenation()])
    def test_networks_of_any_form_are_cut(self, network: nn.Module) -> None:
        check_cut(network, images())
        assert cut(network, images(), width=0.5).network(images()).shape == (2, 5)

    def test_a_wrapped_network_is_cut_like_the_plain_one(self) -> None:
        plain = copy.deepcopy(made("mobilenet_v2")[0])
        wrapped = copy.deepcopy(plain)
        speed_up_depthwise(wrapped)
        slice_pointwise(wrapped)
        student = Student(wrapped, (3, SIZE, SIZE))
        assert any(isinstance(module, SmallMapDepthwise) for module in wrapped.modules())
        ours, theirs = (cut(one, images(), width=0.5) for one in (student.model, plain))
        assert ours.record == theirs.record
        assert torch.allclose(ours.network.eval()(images()), theirs.network.eval()(images()), atol=1e-6)

    def test_a_cut_can_be_wrapped(self) -> None:
        network = copy.deepcopy(made("resnet18")[0])
        one = cut(network, images(), width=0.4)
        slice_pointwise(one.network)
        assert any(isinstance(module, SlicedPointwise) for module in one.network.modules())
        student = Student(one.network, (3, SIZE, SIZE)).train()
        output = student(images(4))
        output.logits.sum().backward()
        assert output.maps is not None

    def test_a_frozen_network_is_cut(self) -> None:
        network = copy.deepcopy(made("resnet18")[0]).requires_grad_(False)
        one = cut(network, images(), width=0.5, importance="taylor", batches=labelled())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert len(one.record["removed"]) > 5


class ChannelShuffle(nn.Module):
    """Mixes its channels in a way that the dependency graph follows wrongly and that still runs when cut."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, given: Tensor) -> Tensor:
        maps = self.first(given).flip(1)
        return self.head(self.second(maps).mean((2, 3)))


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "cause"),
        [("shufflenet_v2_x0_5", r"transpose\(\) in stage2\.0"), ("swin_t", r"permute\(\) in features\.0")],
    )
    def test_a_network_whose_channels_are_mixed_is_refused_by_name(self, name: str, cause: str) -> None:
        network = build_network(
            ModelSpec(name=name, classes=CLASSES, channels=3, size=32, small=True), "big_model"
        )
        with pytest.raises(UserError, match=cause) as refused:
            check_cut(network, torch.randn(2, 3, 32, 32))
        assert refused.value.where == "student.name"
        assert "mobilenet_v2" in refused.value.hint

    def test_a_cut_that_would_compute_something_else_is_refused(self) -> None:
        torch.manual_seed(0)
        with pytest.raises(UserError, match="computes something else"):
            check_cut(ChannelShuffle(), images())

    def test_shared_weights_are_refused(self) -> None:
        with pytest.raises(UserError, match=r"first\.weight and second\.weight are one tensor"):
            check_cut(Tied(), images())

    def test_a_network_without_hidden_channels_is_refused(self) -> None:
        network = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES))
        with pytest.raises(UserError, match="no layer between"):
            check_cut(network, images())

    @pytest.mark.parametrize(
        "damage",
        [
            {"schema": 2},
            {"shapes": {"conv9.weight": [1]}},
            {"shapes": {"conv1.weight": [999, 3, 3, 3]}},
            {"shapes": {"conv1.weight": [1]}},
            {"shapes": [1]},
            {"heads": {"conv1": 1}},
        ],
    )
    def test_a_record_of_another_architecture_is_refused(self, damage: dict[str, object]) -> None:
        network, groups = made("resnet18")
        record = {**cut(network, images(), width=0.5, groups=groups).record, **damage}
        with pytest.raises(UserError, match=r"^cut\b"):
            apply_cut(fresh("resnet18"), record)


def test_recalibrated_statistics_are_those_of_the_cut() -> None:
    network, groups = made("resnet18")
    student = cut(network, images(), width=0.25, groups=groups).network
    recalibrate(student, [images(8)])
    means: list[Tensor] = []

    def note(module: nn.Module, given: Sequence[Tensor], _: Tensor) -> None:
        means.append((given[0].mean((0, 2, 3)) - module.running_mean).abs().max())

    student.layer1[0].bn1.register_forward_hook(note)
    student(images(8))
    assert means[0] < 1e-3

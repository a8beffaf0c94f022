"""Students cut from F: what stays computes as before, sizes are known beforehand, records rebuild the cut."""

import copy
import json
from collections.abc import Sequence
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.models.nets import DropoutHead, FunctionalPool, NoLinear, Tied
from tkd_search.distill.training.evaluation import recalibrate
from tkd_search.errors import UserError
from tkd_search.models.architectures.families import ModelSpec
from tkd_search.models.build import build_network
from tkd_search.models.cuts import IMPORTANCES, apply_cut, check_cut, cut, cut_shapes, find_groups
from tkd_search.models.cuts.attention import kept_head_width
from tkd_search.models.cuts.channel_groups import ChannelGroup
from tkd_search.models.cuts.channel_importance import scores
from tkd_search.models.cuts.widths import kept_channels, kept_count, stage_sides
from tkd_search.models.depthwise import SmallMapDepthwise, speed_up_depthwise
from tkd_search.models.pointwise import SlicedPointwise, slice_pointwise
from tkd_search.models.size import model_bytes, model_parameters
from tkd_search.models.student import Student

FAMILIES = {
    "alexnet": 0.125,
    "vgg11": 0.0625,
    "vgg11_bn": 0.0625,
    "resnet18": 0.25,
    "resnext50_32x4d": 0.25,
    "mobilenet_v2": 0.25,
    "mobilenet_v3_small": 0.5,
    "efficientnet_b0": 0.25,
    "vit_b_16": 0.25,
    "tkd_search.models.plain:plain_cnn": 1.0,
}
CLASSES, SIZE = 5, 16


def fresh(name: str, device: str = "cpu") -> nn.Module:
    args = {"num_layers": 2} if name == "vit_b_16" else {}
    spec = ModelSpec(
        name=name, classes=CLASSES, channels=3, size=SIZE, width=FAMILIES[name], small=True, args=args
    )
    with torch.device(device):
        return build_network(spec, "big_model")


@cache
def made(name: str) -> tuple[nn.Module, tuple[ChannelGroup, ...]]:
    """A network with statistics of its own, and its groups; tests leave both as they are."""
    torch.manual_seed(0)
    network = fresh(name)
    recalibrate(network, [images(8)])
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network, find_groups(network, images())


def images(count: int = 2) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))


def labelled(count: int = 4) -> list[tuple[Tensor, Tensor]]:
    return [(images(count), torch.arange(count) % CLASSES)]


def shapes(network: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


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
        sizes = [cut_shapes(network, images(), width=width, groups=groups).bytes for width in widths]
        assert all(small < large for small, large in pairwise(sizes))
        assert sizes[-1] == model_bytes(network)
        assert sizes[2] < 0.4 * sizes[-1]

    def test_the_shapes_are_known_before_and_are_those_of_every_importance(self, name: str) -> None:
        network, groups = made(name)
        meta = fresh(name, "meta")
        expected = cut_shapes(meta, images().to("meta"), width=0.4, groups=groups)
        for importance in IMPORTANCES:
            student = cut(
                network, images(), width=0.4, importance=importance, batches=labelled(), groups=groups
            ).network
            assert shapes(student) == expected.shapes
            assert model_bytes(student) == expected.bytes
            assert model_parameters(student) == expected.parameters

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


class TestImportance:
    def test_the_largest_weights_stay(self) -> None:
        network = copy.deepcopy(made("resnet18")[0])
        conv = network.layer1[0].conv1
        with torch.no_grad():
            conv.weight[3:] *= 1e-3
            network.layer1[0].bn1.weight[3:] *= 1e-3
        removed = cut(network, images(), width=3 / len(conv.weight), importance="magnitude").record["removed"]
        assert removed["layer1.0.conv1"] == list(range(3, len(conv.weight)))

    def test_bn_scale_reads_the_scales_alone(self) -> None:
        network = copy.deepcopy(made("resnet18")[0])
        norm = network.layer1[0].bn1
        with torch.no_grad():
            norm.weight.copy_(torch.linspace(-1, 1, len(norm.weight)))
            network.layer1[0].conv1.weight[len(norm.weight) // 2] *= 1e3
        removed = cut(network, images(), width=0.5, importance="bn_scale").record["removed"]
        count = len(norm.weight)
        assert removed["layer1.0.conv1"] == list(range(count // 4, count - count // 4))

    def test_taylor_removes_channels_that_nothing_reads(self) -> None:
        network = copy.deepcopy(made("resnet18")[0])
        reader = network.layer1[0].conv2
        with torch.no_grad():
            reader.weight[:, ::2] = 0
        one = cut(network, images(), width=0.5, importance="taylor", batches=labelled(), keep=["conv1"])
        assert one.record["removed"]["layer1.0.conv1"] == list(range(0, reader.in_channels, 2))

    def test_taylor_is_the_squared_derivative_of_the_loss_for_a_gate_on_the_channel(self) -> None:
        network = copy.deepcopy(made("resnet18")[0]).eval()
        gate = torch.ones(network.layer1[0].conv2.in_channels, requires_grad=True)
        found = scores(network, find_groups(network, images()), "taylor", batches=labelled())
        network.layer1[0].conv2.register_forward_pre_hook(lambda _, given: given[0] * gate[:, None, None])
        (given, labels), *_ = labelled()
        nn.functional.cross_entropy(network(given), labels).backward()
        assert gate.grad is not None
        assert torch.allclose(found["layer1.0.conv1"], gate.grad.square(), rtol=1e-3, atol=1e-9)

    def test_random_follows_its_seed(self) -> None:
        network, groups = made("resnet18")
        removed = [
            cut(network, images(), width=0.5, importance="random", seed=seed, groups=groups).record["removed"]
            for seed in (0, 0, 1)
        ]
        assert removed[0] == removed[1] != removed[2]

    def test_taylor_without_batches_is_refused(self) -> None:
        network, groups = made("resnet18")
        with pytest.raises(UserError, match="without a training batch"):
            cut(network, images(), width=0.5, importance="taylor", groups=groups)

    def test_an_unknown_importance_is_refused(self) -> None:
        network, groups = made("resnet18")
        with pytest.raises(UserError, match=r"magnitude \| bn_scale"):
            cut(network, images(), width=0.5, importance="size", groups=groups)

    def test_bn_scale_needs_batch_norm(self) -> None:
        with pytest.raises(UserError, match="no batch normalisation"):
            check_cut(made("vgg11")[0], images(), importances=["magnitude", "bn_scale"])


class TestWidths:
    def test_a_list_has_a_share_for_each_stage(self) -> None:
        network, groups = made("resnet18")
        sides = stage_sides(groups)
        ratios = [0.25, *[1.0] * (len(sides) - 2), 0.5]
        removed = cut(network, images(), width=1.0, ratios=ratios, groups=groups).record["removed"]
        assert set(removed) == {group.name for group in groups if group.side in (sides[0], sides[-1])}
        assert len(removed["conv1"]) == 0.75 * network.conv1.out_channels

    def test_a_mapping_names_layers_and_the_longest_name_counts(self) -> None:
        network, groups = made("resnet18")
        ratios = {"layer4": 0.5, "layer4.1.conv1": 0.25}
        student = cut(network, images(), width=1.0, ratios=ratios, groups=groups).network
        assert student.layer4[0].conv1.out_channels == network.layer4[0].conv1.out_channels / 2
        assert student.layer4[1].conv1.out_channels == network.layer4[1].conv1.out_channels / 4
        assert student.layer3[1].conv2.out_channels == network.layer3[1].conv2.out_channels

    def test_layers_to_keep_stay_whole(self) -> None:
        network, groups = made("resnet18")
        student = cut(network, images(), width=0.5, keep=["layer2.0.conv2"], groups=groups).network
        assert student.layer2[1].conv2.out_channels == network.layer2[1].conv2.out_channels
        assert student.layer2[1].conv1.out_channels < network.layer2[1].conv1.out_channels

    @pytest.mark.parametrize(
        ("settings_", "found"),
        [
            ({"width": 0.0}, "student.width: found 0"),
            ({"width": 1.5}, "student.width: found 1.5"),
            ({"width": 0.5, "ratios": [0.5]}, "found 1 numbers"),
            ({"width": 0.5, "ratios": {"layer5": 0.5}}, "found 'layer5'"),
            ({"width": 0.5, "ratios": {"layer4": 2.0}}, "found 2"),
            ({"width": 0.5, "keep": ["head"]}, "found 'head'"),
        ],
    )
    def test_wrong_widths_are_refused(self, settings_: dict[str, object], found: str) -> None:
        network, groups = made("resnet18")
        with pytest.raises(UserError, match=found.replace(".", r"\.")):
            cut_shapes(network, images(), groups=groups, **settings_)

    def test_widths_are_rounded_to_multiples(self) -> None:
        network, groups = made("mobilenet_v2")
        sizes = shapes(cut_shapes(network, images(), width=0.6, round_to=8, groups=groups).network)
        writers = [group.name for group in groups if group.channels >= 8]
        assert all(sizes[f"{name}.weight"][0] % 8 == 0 for name in writers)

    @given(
        channels=st.integers(1, 40),
        blocks=st.integers(1, 4),
        round_to=st.sampled_from([1, 4, 8]),
        share=st.floats(0.01, 1),
        data=st.data(),
    )
    @settings(max_examples=60, deadline=None)
    def test_the_largest_scores_stay_and_every_block_keeps_the_same_positions(
        self, channels: int, blocks: int, round_to: int, share: float, data: st.DataObject
    ) -> None:
        group = ChannelGroup("layer", channels * blocks, (), ("layer",), blocks=blocks)
        values = torch.tensor(data.draw(st.permutations(range(channels))), dtype=torch.float32).repeat(blocks)
        kept = kept_channels(group, values, share, round_to)
        assert kept.sum() == kept_count(group, share, round_to) >= blocks
        assert (kept.view(blocks, -1) == kept[:channels]).all()
        assert kept.all() or values[kept].min() > values[~kept].max()

    @given(heads=st.integers(1, 16), width=st.integers(1, 64), share=st.floats(0.01, 1))
    def test_heads_and_their_width_stay_near_the_share(self, heads: int, width: int, share: float) -> None:
        left, dims = kept_head_width(heads * width, heads, share)
        assert 1 <= left <= heads
        assert 1 <= dims <= width
        assert abs(left * dims - share * heads * width) <= max(left, width) + 1


class TestAttention:
    def test_heads_mlp_and_embedding_are_cut(self) -> None:
        network, groups = made("vit_b_16")
        student = cut(network, images(), width=0.5, groups=groups).network
        layer, whole = student.encoder.layers[0], network.encoder.layers[0]
        assert layer.self_attention.num_heads == round(0.5 * whole.self_attention.num_heads)
        assert layer.mlp[0].out_features == whole.mlp[0].out_features / 2
        assert student.hidden_dim == layer.self_attention.embed_dim < network.hidden_dim

    def test_the_strongest_head_stays_whole(self) -> None:
        network = copy.deepcopy(made("vit_b_16")[0])
        attention = network.encoder.layers[0].self_attention
        width = attention.embed_dim // attention.num_heads
        with torch.no_grad():
            attention.in_proj_weight[attention.embed_dim - width : attention.embed_dim] *= 100
        one = cut(network, images(), width=1 / attention.num_heads)
        name = "encoder.layers.encoder_layer_0.self_attention"
        assert one.record["removed"][name] == list(range(attention.embed_dim - width))
        assert one.record["heads"][name] == 1

    @pytest.mark.parametrize(("heads", "left", "width"), [(4, 2, 4), (1, 1, 8)])
    def test_a_stacked_attention_is_cut(self, heads: int, left: int, width: int) -> None:
        torch.manual_seed(0)
        network = StackedAttention(heads)
        check_cut(network, images())
        one = cut(network, images(), width=0.5)
        assert (one.network.attention.num_heads, one.network.attention.head_dim) == (left, width)
        rebuilt = apply_cut(StackedAttention(heads), one.record)
        rebuilt.load_state_dict(one.network.state_dict())
        assert torch.equal(rebuilt(images()), one.network(images()))


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


class StackedAttention(nn.Module):
    """A small ViT with queries, keys and values in one layer, as timm's."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 16, 4, 4), _Stacked(16, heads)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, CLASSES)

    def forward(self, given: Tensor) -> Tensor:
        tokens = self.patches(given).flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(self.norm(tokens))
        return self.head(tokens.mean(1))


class _Stacked(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.attn_dim = heads, width // heads, width
        self.scale = self.head_dim**-0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        rows, count, _ = tokens.shape
        parts = self.qkv(tokens).reshape(rows, count, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        queries, keys, values = parts.unbind(0)
        read = (queries * self.scale @ keys.transpose(-2, -1)).softmax(-1) @ values
        return self.proj(read.transpose(1, 2).reshape(rows, count, self.attn_dim))


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
        with pytest.raises(UserError, match=r"student\.json"):
            apply_cut(fresh("resnet18"), record, where="student.json")


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

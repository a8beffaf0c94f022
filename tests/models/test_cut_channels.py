"""Which channels a cut keeps: importance, widths and heads of attention."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.models.cut_networks import images, labelled, made
from tests.models.nets import StackedAttention
from tkd_search.errors import UserError
from tkd_search.models.cuts import apply_cut, check_cut, cut, find_groups
from tkd_search.models.cuts.attention import kept_head_width
from tkd_search.models.cuts.channel_groups import ChannelGroup
from tkd_search.models.cuts.channel_importance import scores
from tkd_search.models.cuts.widths import kept_channels, kept_count, stage_sides


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
        ratios = {"layer1.0.conv1": 0.5}
        one = cut(network, images(), width=1.0, importance="taylor", batches=labelled(), ratios=ratios)
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

    @pytest.mark.parametrize(
        ("settings_", "found"),
        [
            ({"width": 0.0}, "student.width: found 0"),
            ({"width": 1.5}, "student.width: found 1.5"),
            ({"width": 0.5, "ratios": [0.5]}, "found 1 numbers"),
            ({"width": 0.5, "ratios": {"layer5": 0.5}}, "found 'layer5'"),
            ({"width": 0.5, "ratios": {"layer4": 2.0}}, "found 2"),
        ],
    )
    def test_wrong_widths_are_refused(self, settings_: dict[str, object], found: str) -> None:
        network, groups = made("resnet18")
        with pytest.raises(UserError, match=found.replace(".", r"\.")):
            cut(network, images(), groups=groups, **settings_)

    @given(
        channels=st.integers(1, 40),
        blocks=st.integers(1, 4),
        share=st.floats(0.01, 1),
        data=st.data(),
    )
    @settings(max_examples=60, deadline=None)
    def test_the_largest_scores_stay_and_every_block_keeps_the_same_positions(
        self, channels: int, blocks: int, share: float, data: st.DataObject
    ) -> None:
        group = ChannelGroup("layer", channels * blocks, (), ("layer",), blocks=blocks)
        values = torch.tensor(data.draw(st.permutations(range(channels))), dtype=torch.float32).repeat(blocks)
        kept = kept_channels(group, values, share)
        assert kept.sum() == kept_count(group, share) >= blocks
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

"""A folded network has no batch norm and computes the same."""

import copy

import pytest
import torch
from torch import nn

from tests.formats.nets import FAMILIES, OWN, PLAIN, built, disturbed, family, images, own
from tkd_search.formats.folding import ScaleShift, find_folds, fold_batchnorm


def batch_norms(network):
    return [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@pytest.mark.parametrize("name", [*FAMILIES, *OWN])
def test_folding_keeps_what_is_computed(name):
    network = family(name) if name in FAMILIES else own(name)
    before = copy.deepcopy(network.state_dict())
    folded = fold_batchnorm(network)
    with torch.no_grad():
        torch.testing.assert_close(folded(images()), network(images()), rtol=1e-3, atol=1e-4)
    assert not batch_norms(folded)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not folded.training


@pytest.mark.parametrize("name", FAMILIES)
def test_families_have_every_batch_norm_folded_away(name):
    assert not any(isinstance(module, ScaleShift) for module in fold_batchnorm(family(name)).modules())


@pytest.mark.parametrize(
    ("name", "folded"),
    [
        ("PreActivation", {"second": "foldable", "head": "of_rows"}),
        ("Untraceable", {"block.0": "block.1"}),
        ("Tied", {}),
        ("Transposed", {"body.0": "body.1", "body.3": "body.4", "body.8": "body.9"}),
        ("CalledTwice", {}),
    ],
)
def test_only_exact_pairs_are_folded(name, folded):
    assert find_folds(own(name)) == folded


@pytest.mark.parametrize("name", [PLAIN, "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_pairs_are_found_without_weights_and_whatever_the_mode(name):
    network = family(name)
    assert find_folds(built(name, FAMILIES[name], "meta").train()) == find_folds(network)


@pytest.mark.parametrize("foldable", [True, False])
def test_the_activation_inside_a_batch_norm_of_timm_stays(foldable):
    from tkd_search.models.architectures.timm_networks import timm

    norm = timm().layers.BatchNormAct2d(3, act_layer=nn.SiLU)
    network = nn.Sequential(nn.Conv2d(3, 3, 1) if foldable else nn.ReLU(), norm, nn.Flatten())
    disturbed(network)
    folded = fold_batchnorm(network)
    torch.testing.assert_close(folded(images()), network(images()))
    assert not batch_norms(folded)


class Standardised(nn.Conv2d):
    """A convolution whose weight has mean 0 and a learned deviation, as timm's ScaledStdConv2d."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.gain = nn.Parameter(torch.zeros(self.out_channels, 1, 1, 1))

    def forward(self, inputs):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        weight = self.gain * weight / weight.std((1, 2, 3), keepdim=True)
        return nn.functional.conv2d(inputs, weight, self.bias, padding=1)


class Padded(nn.Conv2d):
    """A convolution that pads its input itself, as timm's Conv2dSame."""

    def forward(self, inputs):
        return super().forward(nn.functional.pad(inputs, (0, 1, 0, 1)))


@pytest.mark.parametrize(("kind", "folded"), [(Standardised, 0), (Padded, 1)])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_layer_that_changes_its_weight_keeps_its_batch_norm(kind, folded, bias, device):
    network = disturbed(nn.Sequential(kind(3, 8, 3, bias=bias), nn.BatchNorm2d(8))).eval()
    assert len(find_folds(network.to(device))) == folded
    if device == "cpu":
        inputs = torch.randn(2, 3, 9, 9)
        with torch.no_grad():
            torch.testing.assert_close(fold_batchnorm(network)(inputs), network(inputs))


def test_batch_norm_without_statistics_stays():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))
    folded = fold_batchnorm(network.eval())
    assert batch_norms(folded)
    assert torch.equal(folded(images()), network(images()))

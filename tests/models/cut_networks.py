"""Networks to cut, with statistics of their own, and images for them."""

from functools import cache

import torch
from torch import Tensor, nn

from tkd_search.distill.training.evaluation import recalibrate
from tkd_search.models.architectures.families import ModelSpec
from tkd_search.models.build import build_network
from tkd_search.models.cuts import find_groups
from tkd_search.models.cuts.channel_groups import ChannelGroup

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

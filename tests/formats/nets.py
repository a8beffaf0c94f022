"""Networks of every kind that ships, with statistics and heads that are not those of an initial network."""

from functools import cache

import torch
from torch import Tensor, nn

from tests.distill.nets import digit_views
from tests.distill.nets import held_out as tests_held_out
from tkd_search.distill.quantization.simulation import (
    calibrate,
    observe,
    set_rounding,
    simulate,
    update_ranges,
)
from tkd_search.models import build_student
from tkd_search.models.model_settings import StudentSettings

PLAIN = "tkd_search.models.plain:plain_cnn"
FAMILIES = {
    PLAIN: 1.0,
    "alexnet": 0.1,
    "vgg11": 0.1,
    "vgg11_bn": 0.1,
    "resnet18": 0.125,
    "mobilenet_v2": 0.15,
    "mobilenet_v3_small": 0.25,
    "shufflenet_v2_x0_5": 0.5,
    "efficientnet_b0": 0.15,
    "vit_b_16": 0.1,
}


def built(name: str, width: float, device: str = "cpu") -> nn.Module:
    """A plain network of a family for 3 × 32 × 32 images and 10 classes, in eval mode."""
    args = {"in_channels": 3} if name == PLAIN else {}
    with torch.device(device):
        settings = StudentSettings(name=name, width=width, args=args)
        return build_student(settings, classes=10, channels=3, size=32).model.eval()


@cache
def family(name: str) -> nn.Module:
    """A network as if trained: nothing in it is zero or one."""
    torch.manual_seed(0)
    return disturbed(built(name, FAMILIES[name]))


@torch.no_grad()
def disturbed(network: nn.Module) -> nn.Module:
    """Give a network scales, shifts and a head that are random, and the statistics of images."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for module in norms:
        if module.affine:
            module.weight.normal_(1, 0.3)
            module.bias.normal_(0, 0.2)
    for module in network.modules():
        if isinstance(module, nn.Linear) and not module.weight.any():
            module.weight.normal_(0, 0.1)
    momenta = [module.momentum for module in norms]
    for module in norms:
        module.momentum = None
        module.train()
    network(images(64, seed=7))
    for module, momentum in zip(norms, momenta, strict=True):
        module.momentum = momentum
    return network.eval()


def images(number: int = 32, seed: int = 0, size: int = 32) -> Tensor:
    """Noise of a colour and a contrast of each image's own, so that outputs differ."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(number, 3, size, size, generator=generator)
    colour = torch.randn(number, 3, 1, 1, generator=generator)
    return noise * torch.rand(number, 1, 1, 1, generator=generator) + colour


def simulated(network: nn.Module, format: str, examples: Tensor) -> nn.Module:
    """A copy in simulated rounding, calibrated on examples."""
    import copy

    made = copy.deepcopy(network)
    simulate(made, format)
    calibrate(made, [examples])
    set_rounding(made, True)
    return made.eval()


def trained(format: str) -> tuple[nn.Module, Tensor]:
    """A plain student trained on the digits, the last epochs with simulated rounding; images held out."""
    torch.manual_seed(0)
    settings = StudentSettings(name=PLAIN, args={"in_channels": 1, "stride": 1})
    network = build_student(settings, classes=10, channels=1, size=8).model
    simulate(network, format)
    views = digit_views(1200, 1)
    optimizer = torch.optim.AdamW(network.parameters(), lr=5e-3)
    for epoch in range(12):
        if epoch == 8:
            calibrate(network, views.images.split(100))
            set_rounding(network, True)
            observe(network, True)
        network.train()
        for index in torch.randperm(1200).split(100):
            loss = nn.functional.cross_entropy(network(views.images[index]), views.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            update_ranges(network)
    observe(network, False)
    ((held_out, _),) = tests_held_out()
    return network.eval(), held_out


class PreActivation(nn.Module):
    """Batch norm of the images and before an activation; a layer whose output is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.of_images = nn.BatchNorm2d(3)
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.twice = nn.BatchNorm2d(6)
        self.second = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.foldable = nn.BatchNorm2d(6, affine=False)
        self.head = nn.Linear(6, 8)
        self.of_rows = nn.BatchNorm1d(8)
        self.last = nn.Linear(8, 10)

    def forward(self, images: Tensor) -> Tensor:
        first = self.conv(self.of_images(images))
        second = self.foldable(self.second(torch.relu(self.twice(first)) + first))
        return self.last(torch.relu(self.of_rows(self.head(second.mean((2, 3))))))


class Untraceable(nn.Module):
    """Decides by values, which symbols have not; its block can be traced."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.conv, self.norm = nn.Conv2d(6, 6, 1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.block(images)
        if bool(maps.mean() > -1e9):
            maps = self.norm(self.conv(maps))
        return self.head(maps.mean((2, 3)))


class Tied(nn.Module):
    """Two convolutions of one weight, each with a batch norm, and an index that is looked up."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.second = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.second.weight = self.first.weight
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
        self.head = nn.Linear(3, 10)
        self.register_buffer("order", torch.tensor([2, 0, 1]))
        self.register_buffer("scratch", torch.zeros(100), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.norms[1](self.second(self.norms[0](self.first(images))))
        return self.head(maps.mean((2, 3))[:, self.order])


class Transposed(nn.Module):
    """Transposed and grouped convolutions, with batch norms that can be folded and one that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 6, 2, 2, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 6, 2, 2, groups=3),
            nn.BatchNorm2d(6),
            nn.Conv2d(6, 12, 3, groups=3),
            nn.BatchNorm2d(12),
        )
        self.head = nn.Linear(12, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).mean((2, 3)))


class CalledTwice(nn.Module):
    """One convolution and its batch norm run twice, and the weight is read beside."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3))
        self.read, self.after = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.head = nn.Linear(3, 10)

    def forward(self, images: Tensor) -> Tensor:
        maps = self.after(self.read(self.block(self.block(images))))
        return self.head(maps.mean((2, 3)) * self.read.weight.mean())


OWN = {kind.__name__: kind for kind in (PreActivation, Untraceable, Tied, Transposed, CalledTwice)}


def own(name: str) -> nn.Module:
    torch.manual_seed(0)
    return disturbed(OWN[name]())

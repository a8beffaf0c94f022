"""Small networks of several structures, as users may have them."""

import torch
from torch import Tensor, nn


def conv_body(channels: int = 3, width: int = 6) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 2, 1),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        nn.Conv2d(width, width, 3, 1, 1),
    )


class FunctionalPool(nn.Module):
    """Pools by a function, after an in-place activation."""

    def __init__(self, num_classes: int = 5, channels: int = 3) -> None:
        super().__init__()
        self.body = conv_body(channels)
        self.head = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(torch.relu_(self.body(images)).mean((2, 3)))


class DropoutHead(nn.Module):
    """Has two dropouts before the last layer, the first in place, and a flattening before them."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.body = conv_body()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Sequential(nn.Dropout(0.5, inplace=True), nn.Dropout(0.5))
        self.head = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.drop(self.pool(self.body(images)).flatten(1)))


class NoLinear(nn.Module):
    """Ends in a convolution and a mean, like SqueezeNet."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.body = conv_body()
        self.head = nn.Conv2d(6, num_classes, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images)).mean((2, 3))


class HiddenLayer(nn.Module):
    """Has a hidden layer between the mean and the last layer, so it has no maps."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.body = conv_body()
        self.classifier = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.body(images).mean((2, 3)))


class LinearAfterLogits(nn.Module):
    """Has a linear layer that runs last but does not compute the logits."""

    def __init__(self, num_classes: int = 5) -> None:
        super().__init__()
        self.body = conv_body()
        self.head = nn.Linear(6, num_classes)
        self.extra = nn.Linear(6, num_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.body(images).mean((2, 3))
        return self.head(pooled), self.extra(pooled)


class Tied(nn.Module):
    """Has two layers with one weight."""

    def __init__(self, num_classes: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(num_classes, num_classes)
        self.second = nn.Linear(num_classes, num_classes)
        self.second.weight = self.first.weight

    def forward(self, images: Tensor) -> Tensor:
        return self.second(self.first(images.flatten(1)[:, :4]))


def not_a_network(num_classes: int) -> str:
    return "surprise"


def tiny(num_classes: int, width: int = 6, channels: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(width, num_classes),
    )


def wrong_classes(num_classes: int) -> nn.Module:
    return tiny(num_classes + 1)


def broken(num_classes: int, error: str = "KeyError") -> nn.Module:
    """Raise the named error, or return a network whose forward pass fails without a message."""
    if error != "forward":
        raise {"KeyError": KeyError, "ZeroDivisionError": ZeroDivisionError, "RuntimeError": RuntimeError}[
            error
        ]("x")
    return FailsWithoutMessage(num_classes)


class FailsWithoutMessage(nn.Module):
    """Fails on every image with an empty message."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Linear(3, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        assert images.dim() == 2
        return self.head(images)

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


class StackedAttention(nn.Module):
    """A small ViT with queries, keys and values in one layer, as timm's."""

    def __init__(self, heads: int, num_classes: int = 5) -> None:
        super().__init__()
        self.patches, self.attention = nn.Conv2d(3, 16, 4, 4), _Stacked(16, heads)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, num_classes)

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

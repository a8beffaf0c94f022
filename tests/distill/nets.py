"""Small networks, data and banks for tests of the method, which need no other package of the project."""

from functools import lru_cache

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.bank_builder import compute_bank
from tkd_search.distill.interfaces import UNLABELLED, StudentOutput
from tkd_search.distill.method_settings import BankSettings, MethodSettings, TrainSettings
from tkd_search.distill.training.distiller import Distiller

FULL = MethodSettings(
    local=2.0,
    local_feature=0.5,
    stage_feature=0.5,
    relation=0.5,
    omega_alignment=0.2,
    omega_gradient=0.2,
    big_model_term="dist",
    reselect_every=0.3,
)
"""Settings of TKD with every term."""

METHODS = {
    **{name: MethodSettings(name=name) for name in ("ce", "kd", "dkd", "dist", "hint", "at", "sp", "tkd")},
    "full": FULL,
    "cos": MethodSettings(feature_reward="cos", activation="pelu", masks=3, bound="tanh"),
    "mse": MethodSettings(feature_reward="mse", activation="rational", theta_frozen=True, bound="raw"),
    "all": MethodSettings(selection="all", activation="prelu"),
    "last": MethodSettings(selection="last_k", k=50, rho=0.0, r=0.0),
}
"""Every method, and TKD with every option."""


class TinyStudent(nn.Module):
    """Two convolutions; maps, features and a linear classifier."""

    def __init__(self, width: int = 8, classes: int = 10, channels: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(inplace=True),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width, classes)
        self.feature_width = 2 * width

    def forward(self, images: Tensor) -> StudentOutput:
        maps = self.body(images)
        features = maps.mean((2, 3))
        return StudentOutput(self.head(self.dropout(features)), features, maps)

    def classify(self, features: Tensor) -> Tensor:
        return self.head(features)


class TinyBig(nn.Module):
    """A small AlexNet with in-place activations and dropout, as in torchvision."""

    def __init__(self, classes: int = 10, channels: int = 1) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 24, 3, padding=1),
            nn.BatchNorm2d(24),
            nn.ReLU(inplace=True),
        )
        self.classifier = nn.Sequential(
            nn.Dropout(), nn.Linear(24 * 16, 40), nn.ReLU(inplace=True), nn.Linear(40, classes)
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).flatten(1))


class DigitViews:
    """Digits in deterministic views: odd views are shifted by one pixel."""

    def __init__(self, images: Tensor, labels: Tensor, views: int = 2) -> None:
        self.images, self.labels, self.views = images, labels, views

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: Tensor, view: Tensor) -> Tensor:
        return torch.where(
            (view % 2 == 1)[:, None, None, None], self.images[index].roll(1, 3), self.images[index]
        )


@lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    return images, torch.tensor(data.target)


def digit_views(number: int = 300, views: int = 2, start: int = 0, unlabelled: int = 0) -> DigitViews:
    """Return so many digits, the last ``unlabelled`` of them without their labels."""
    images, labels = (part[start : start + number] for part in _digits())
    known = torch.arange(number) < number - unlabelled
    return DigitViews(images, torch.where(known, labels, UNLABELLED), views)


def held_out(number: int = 400) -> list[tuple[Tensor, Tensor]]:
    images, labels = _digits()
    return [(images[-number:], labels[-number:])]


@lru_cache(maxsize=2)
def trained_big_model(epochs: int = 6) -> TinyBig:
    """Return a TinyBig that is trained on the first 1,000 digits."""
    torch.manual_seed(0)
    model, views = TinyBig(), digit_views(1000, 1)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for epoch in range(epochs):
        order = torch.randperm(len(views), generator=torch.Generator().manual_seed(epoch))
        for index in order.split(100):
            loss = nn.functional.cross_entropy(model(views.images[index]), views.labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model.eval()


@lru_cache(maxsize=4)
def digit_bank(number: int = 300, views: int = 2, grid: int = 0, width: int = 32) -> Bank:
    settings = BankSettings(width=width, grid=grid)
    return compute_bank([trained_big_model()], digit_views(number, views), settings)


def distiller(
    method: MethodSettings,
    *,
    epochs: int = 3,
    number: int = 300,
    seed: int = 0,
    grid: int = 0,
    balanced: bool = False,
    unlabelled: int = 0,
    **train: object,
) -> Distiller:
    torch.manual_seed(seed)
    settings = TrainSettings(**{"epochs": epochs, "batch_size": 64, "lr": 1e-2, **train})
    return Distiller(
        TinyStudent(),
        digit_views(number, unlabelled=unlabelled),
        method,
        settings,
        seed=seed,
        bank=digit_bank(number, grid=grid),
        class_count=10,
        balanced=balanced,
    )


def weights(trained: Distiller) -> dict[str, torch.Tensor]:
    """The student's tensors by name, copied."""
    return {name: value.clone() for name, value in trained.student.state_dict().items()}


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal to the bit."""
    return all(torch.equal(value, b[name]) for name, value in a.items())

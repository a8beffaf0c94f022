"""The method on a GPU gives the results of a CPU, up to rounding; skipped without a GPU.

The suite hides GPUs from all other tests. To run this file:
CUDA_VISIBLE_DEVICES=0 pytest -n 0 tests/distill/test_gpu.py
"""

import io
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tests.distill.nets import (
    FULL,
    METHODS,
    TinyStudent,
    digit_bank,
    digit_views,
    held_out,
    trained_big_model,
)
from tkd_search.data.bundle import Split
from tkd_search.data.views import AugmentedViews
from tkd_search.distill import Distiller, MethodSettings, TrainSettings, compute_bank, evaluate
from tkd_search.distill.method_settings import BankSettings
from tkd_search.distill.training.read_ahead import images_ahead
from tkd_search.models import build_student
from tkd_search.models.model_settings import StudentSettings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Compute float32 products in float32, not in TF32, and deterministically."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = False, True
    yield
    torch.backends.cudnn.allow_tf32, torch.backends.cudnn.deterministic = before


class OnDevice:
    """Digits whose batches are on the GPU, as in a search."""

    def __init__(self, device: str, views: int = 2) -> None:
        self._views, self._device = digit_views(300, max(views, 1)), device
        self.labels, self.views = self._views.labels.to(device), views

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, index: torch.Tensor, view: torch.Tensor) -> torch.Tensor:
        return self._views.batch(index.cpu(), view.cpu()).to(self._device)


def made(
    method: MethodSettings,
    device: str,
    *,
    live: bool = False,
    student: torch.nn.Module | None = None,
    **train,
):
    torch.manual_seed(0)
    settings = TrainSettings(**{"epochs": 3, "batch_size": 64, "lr": 1e-2, **train})
    return Distiller(
        student or TinyStudent(),
        OnDevice(device, 0 if live else 2),
        method,
        settings,
        seed=0,
        bank=None if live else digit_bank(300, grid=4),
        big_models=[trained_big_model()] if live else [],
        device=device,
        class_count=10,
    )


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_the_losses_of_a_cpu(name: str) -> None:
    here, there = (made(METHODS[name], device).run_epoch() for device in ("cpu", "cuda"))
    assert there.losses == pytest.approx(here.losses, rel=2e-2, abs=2e-2)
    assert [tap for tap, _ in there.teachers] == [tap for tap, _ in here.teachers]


@pytest.mark.parametrize("name", METHODS)
def test_every_method_resumes(name: str) -> None:
    whole = made(METHODS[name], "cuda")
    whole.run_epoch()
    buffer = io.BytesIO()
    torch.save(whole.state_dict(), buffer)
    buffer.seek(0)
    resumed = made(METHODS[name], "cuda")
    resumed.load_state_dict(torch.load(buffer, weights_only=True, map_location="cpu"))
    assert resumed.run_epoch().losses == pytest.approx(whole.run_epoch().losses, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("method", [FULL, MethodSettings(distil_back="big_model"), MethodSettings(name="kd")])
def test_live_big_models_give_the_losses_of_a_cpu(method: MethodSettings) -> None:
    here, there = (made(method, device, live=True).run_epoch() for device in ("cpu", "cuda"))
    trained_big_model().cpu()
    assert there.losses == pytest.approx(here.losses, rel=2e-2, abs=2e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_precisions_learn(precision: str) -> None:
    training = made(FULL, "cuda", precision=precision, epochs=12)
    for _ in range(12):
        training.run_epoch()
    images, labels = held_out()[0]
    assert evaluate(training.eval_student(), [(images.cuda(), labels)]) > 0.7


def test_a_compiled_student_with_stages_has_the_same_losses() -> None:
    plain, compiled = (made(FULL, "cuda", compile=c, student=mobilenet()).run_epoch() for c in (False, True))
    assert compiled.losses == pytest.approx(plain.losses, rel=2e-2, abs=2e-2)


def mobilenet() -> torch.nn.Module:
    torch.manual_seed(0)
    return build_student(StudentSettings(width=0.25), classes=10, channels=1, size=8)


def test_the_bank_equals_that_of_a_cpu() -> None:
    here, there = (
        compute_bank([trained_big_model()], OnDevice(device), BankSettings(width=32, grid=4), device=device)
        for device in ("cpu", "cuda")
    )
    trained_big_model().cpu()
    assert there.features.device.type == "cpu"
    assert torch.allclose(here.logits.float(), there.logits.float(), atol=2e-2)
    products = [torch.einsum("rmp,smp->mrs", b.features.float(), b.features.float()) for b in (here, there)]
    assert torch.allclose(*products, atol=0.5, rtol=1e-2)  # up to the signs of principal directions


@pytest.mark.parametrize("augment", ["none", "shift", "crop_flip"])
def test_views_equal_those_of_a_cpu_in_every_pixel(augment: str) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split = Split(images, torch.zeros(64, dtype=torch.int64))
    index, view = torch.arange(64).repeat(3), torch.arange(3).repeat_interleave(64)
    here, there = (
        AugmentedViews(split, mean=(0.5,) * 3, std=(0.2,) * 3, views=3, augment=augment, device=device)
        for device in ("cpu", "cuda")
    )
    assert torch.equal(here.pixels(index, view), there.pixels(index, view).cpu())
    assert torch.allclose(here.batch(index, view), there.batch(index, view).cpu(), atol=1e-5)


def test_images_that_are_read_ahead_and_pinned_are_those_of_a_cpu() -> None:
    class Stored:
        """Images that are not a tensor, as those on the disk."""

        def __init__(self, images: torch.Tensor) -> None:
            self._images = images

        def __len__(self) -> int:
            return len(self._images)

        def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
            return self._images[index]

    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    split, given = (
        Split(Stored(images), torch.zeros(64, dtype=torch.int64)),
        {"views": 2, "augment": "crop_flip"},
    )
    order = [(torch.arange(64)[start::8], torch.arange(8) % 2) for start in range(8)]
    here, there = (
        [batch for _, _, batch in images_ahead(views, order)]
        for views in (
            AugmentedViews(split, mean=(0.5,) * 3, std=(0.2,) * 3, device=device, **given)
            for device in ("cpu", "cuda")
        )
    )
    for one, other in zip(here, there, strict=True):
        assert torch.allclose(one, other.cpu(), atol=1e-5)


@pytest.mark.parametrize(
    "kind", [{"augment": "resized_crop"}, {"augment": "none", "randaugment": 1, "erasing": 0.5}]
)
def test_augmented_views_are_those_of_a_cpu_up_to_rounding(kind: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator)
    split, index = Split(images, torch.zeros(64, dtype=torch.int64)), torch.arange(64)
    here, there = (
        AugmentedViews(split, mean=(0.5,) * 3, std=(0.2,) * 3, views=0, device=device, **kind)
        for device in ("cpu", "cuda")
    )
    pixels = (here.pixels(index, index + 1).int() - there.pixels(index, index + 1).cpu().int()).abs()
    assert (pixels <= 1).float().mean() > 0.99

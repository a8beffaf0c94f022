"""What a training step on 8 × 8 images costs with plain and with small-map depthwise convolutions.

    python -m benchmarks.small_maps [--rounds 15]

The same MobileNetV2 with the same weights, forward and backward, in turn; CPU time of one thread, medians of
per-round ratios. Half a minute.
"""

import argparse
import statistics
import time
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tkd_search.models import Student, build_student
from tkd_search.models.depthwise import SmallMapDepthwise
from tkd_search.models.model_settings import StudentSettings

BATCH = 96


def students(width: float) -> tuple[Student, Student]:
    """The same student with plain and with small-map convolutions."""
    made = []
    for _ in range(2):
        torch.manual_seed(0)
        student = build_student(StudentSettings(width=width), classes=10, channels=1, size=8)
        made.append(student.train().to(memory_format=torch.channels_last))  # type: ignore[call-overload]
    for module in made[0].modules():
        if type(module) is SmallMapDepthwise:
            cast(nn.Module, module).__class__ = nn.Conv2d
    return made[0], made[1]


def seconds(student: Student, images: Tensor, labels: Tensor) -> float:
    """CPU seconds of one forward and backward pass."""
    start = time.process_time()
    F.cross_entropy(student(images).logits, labels).backward()
    return time.process_time() - start


def measured(width: float, rounds: int) -> Iterator[tuple[float, float]]:
    """Seconds of a plain and a quick step, one pair per round after a first that does not count."""
    plain, quick = students(width)
    images = torch.randn(BATCH, 1, 8, 8).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))
    for turn in range(rounds + 1):
        pair = seconds(plain, images, labels), seconds(quick, images, labels)
        if turn:
            yield pair


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'width':>6s} {'plain ms':>9s} {'quick ms':>9s} {'plain ÷ quick':>14s}")
    for width in (0.15, 0.25, 0.5):
        pairs = list(measured(width, options.rounds))
        plain, quick = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
        print(f"{width:6g} {plain:9.1f} {quick:9.1f} {statistics.median(a / b for a, b in pairs):14.2f}")


if __name__ == "__main__":
    main()

"""Places labels greedily so that none covers another label, a point or the frame."""

from collections.abc import Sequence
from typing import NamedTuple


class Box(NamedTuple):
    """An axis-parallel rectangle in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: "Box") -> bool:
        """Return whether the two share area."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.bottom < other.top
            and other.bottom < self.top
        )

    def inside(self, frame: "Box") -> bool:
        """Return whether it lies within ``frame``."""
        return (
            self.left >= frame.left
            and self.right <= frame.right
            and self.bottom >= frame.bottom
            and self.top <= frame.top
        )


_DIRECTIONS = ((-1, 1), (0, 1), (1, 1), (-1, 0), (1, 0), (-1, -1), (0, -1), (1, -1))


def place_labels(
    anchors: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    obstacles: Sequence[Box],
    frame: Box,
    gaps: Sequence[float] = (7, 14, 24, 38, 56, 80),
) -> list[Box | None]:
    """Return a box for every label near its anchor, None for a label without room.

    Args:
        anchors: the labelled points (x, y) in pixels, most important first.
        sizes: width and height of each label's text.
        obstacles: boxes that no label may cover (points, other text).
        frame: the box that contains every label.
        gaps: distances from the anchor that are tried, nearest first, in eight directions.
    """
    taken = list(obstacles)
    placed: list[Box | None] = []
    for anchor, size in zip(anchors, sizes, strict=True):
        options = (_box(anchor, size, gap, way) for gap in gaps for way in _DIRECTIONS)
        free = (
            box for box in options if box.inside(frame) and not any(box.overlaps(other) for other in taken)
        )
        box = next(free, None)
        placed.append(box)
        if box is not None:
            taken.append(box)
    return placed


def _box(anchor: tuple[float, float], size: tuple[float, float], gap: float, way: tuple[int, int]) -> Box:
    (x, y), (width, height), (across, up) = anchor, size, way
    middle_x = x + across * (gap + width / 2) * (1.0 if up == 0 else 0.75)
    middle_y = y + up * (gap + height / 2)
    return Box(middle_x - width / 2, middle_y - height / 2, middle_x + width / 2, middle_y + height / 2)

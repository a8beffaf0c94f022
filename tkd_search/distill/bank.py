"""The bank: what the big models say about every view of every training image, computed once.

Steps 1 and 2 of the article: F's features are its taps' pooled activations, standardised by their
statistics over the whole training set (docs/method.md, equations 1 and 2).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.projection import Projection, fit_projection, project_all, project_cells
from tkd_search.distill.reading import Readers, Reading
from tkd_search.distill.seeds import child_generator
from tkd_search.distill.settings import BankSettings
from tkd_search.distill.statistics import Moments, fisher_ratio, merge, moments
from tkd_search.distill.taps import Tap, find_taps_of_all
from tkd_search.distill.types import ViewSource, channels_last

Progress = Callable[[int, int], None]
_SAMPLE = 8192
_KEEP_BYTES = 1 << 30
_HALF_MAX = 60000.0


@dataclass(frozen=True)
class Bank:
    """Pooled tap features and logits of the big models, for A fixed views of N training images.

    Rows are ordered view by view: row = view·N + index, R = A·N of them. A bank for freely drawn views
    (``views`` 0) has no rows, only what a live big model's features need to be brought into its form.
    """

    features: Tensor
    """Y, fp16 [R, M, P]."""
    logits: Tensor
    """a, fp16 [R, c]; several big models: log of their mean probability."""
    labels: Tensor
    """int64 [N]."""
    views: int
    """A; 0 for freely drawn views."""
    taps: tuple[Tap, ...]
    projections: tuple[Projection, ...]
    fisher: tuple[float, ...]
    """Between over within-class variance per tap."""
    grid: int = 0
    """Cells per side; 0 where none are kept."""
    cells: Tensor | None = None
    """fp16 [R, M_s, G², P], or None."""

    @property
    def width(self) -> int:
        """P."""
        return self.projections[0].width

    @property
    def widths(self) -> list[int]:
        """Real channels per tap, min(C_i, P)."""
        return [projection.real for projection in self.projections]

    @property
    def classes(self) -> int:
        """Number of classes c."""
        return self.logits.shape[1]

    @property
    def cell_taps(self) -> tuple[int, ...]:
        """Positions among ``taps`` of those with cells, in the order of ``cells``."""
        return tuple(i for i, tap in enumerate(self.taps) if tap.spatial) if self.grid else ()

    @property
    def nbytes(self) -> int:
        """Bytes of the rows."""
        return sum(t.nbytes for t in (self.features, self.logits, self.cells) if t is not None)

    def rows(self, view: Tensor, index: Tensor) -> Tensor:
        """Row numbers [B] of views [B] of images [B]."""
        return view * len(self.labels) + index

    def to(self, device: torch.device | str) -> "Bank":
        """The same bank with its rows on another device."""
        return replace(
            self,
            features=self.features.to(device),
            logits=self.logits.to(device),
            cells=None if self.cells is None else self.cells.to(device),
            projections=tuple(projection.to(device) for projection in self.projections),
        )

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name, for storing; the rest is ``meta``."""
        named = {"features": self.features, "logits": self.logits, "labels": self.labels}
        if self.cells is not None:
            named["cells"] = self.cells
        for i, projection in enumerate(self.projections):
            named[f"projection.{i}.mean"] = projection.mean
            named[f"projection.{i}.scale"] = projection.scale
            if projection.basis is not None:
                named[f"projection.{i}.basis"] = projection.basis
        return named

    def meta(self) -> dict[str, Any]:
        """Everything but the tensors, as JSON values."""
        return {
            "views": self.views,
            "width": self.width,
            "grid": self.grid,
            "fisher": list(self.fisher),
            "taps": [[tap.name, tap.channels, tap.spatial, tap.model] for tap in self.taps],
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor], meta: dict[str, Any]) -> "Bank":
        """The inverse of ``tensors`` and ``meta``; tensors may be memory-mapped.

        Raises:
            KeyError: something is missing.
        """
        projections = tuple(
            Projection(
                tensors[f"projection.{i}.mean"],
                tensors[f"projection.{i}.scale"],
                tensors.get(f"projection.{i}.basis"),
                meta["width"],
            )
            for i in range(len(meta["taps"]))
        )
        return cls(
            features=tensors["features"],
            logits=tensors["logits"],
            labels=tensors["labels"],
            views=meta["views"],
            taps=tuple(Tap(*fields) for fields in meta["taps"]),
            projections=projections,
            fisher=tuple(meta["fisher"]),
            grid=meta["grid"],
            cells=tensors.get("cells"),
        )


@torch.no_grad()
def compute_bank(
    models: Sequence[nn.Module],
    views: ViewSource,
    settings: BankSettings,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Bank:
    """Run the frozen big models over every view of every training image.

    Args:
        models: F, or several; moved to ``device``, run in eval mode, their mode restored.
        views: the training images. With ``views.views`` 0 (freely drawn) only statistics and projections
            are made, over one draw per image, and no rows are kept.
        settings: which taps, their width and grid.
        device: where the models run; the bank is in main memory.
        batch_size: rows per forward pass.
        progress: called with (rows done, rows in all).

    The models run once where their raw features fit into 1 GiB, else twice (statistics, then rows).

    Raises:
        UserError: a tap pattern matches nothing.
    """
    modes = [model.training for model in models]
    for model in models:
        model.eval().to(device)
    example = views.batch(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
    taps = find_taps_of_all(models, settings.taps, example.to(device))
    readers = Readers(models, taps, settings.grid)
    try:
        return _compute(readers, taps, views, settings, _Pass(readers, views, device, batch_size, progress))
    finally:
        readers.close()
        for model, mode in zip(models, modes, strict=True):
            model.train(mode)


class _Pass:
    """Batches of readings in row order; what was read is kept for a second pass while it fits."""

    def __init__(
        self,
        readers: Readers,
        views: ViewSource,
        device: str | torch.device,
        batch_size: int,
        progress: Progress | None,
    ) -> None:
        self._readers, self._views, self._device, self._size = readers, views, device, batch_size
        self._progress = progress or (lambda done, total: None)
        self._kept: list[tuple[slice, Reading]] = []
        self.rows = max(views.views, 1) * len(views)

    def __iter__(self) -> Iterator[tuple[slice, Reading]]:
        kept_bytes = sum(reading.nbytes for _, reading in self._kept)
        yield from self._kept
        keep = True
        for start in range(self._kept[-1][0].stop if self._kept else 0, self.rows, self._size):
            where = slice(start, min(start + self._size, self.rows))
            row = torch.arange(where.start, where.stop)
            images = self._views.batch(row % len(self._views), row // len(self._views))
            reading = self._readers(channels_last(images.to(self._device))).cpu()
            kept_bytes += reading.nbytes
            keep = keep and kept_bytes <= _KEEP_BYTES
            if keep:
                self._kept.append((where, reading))
            self._progress(where.stop, self.rows)
            yield where, reading


def _statistics(
    readings: _Pass, labels: Tensor, taps: Sequence[Tap], classes: int
) -> tuple[list[Moments], list[Tensor]]:
    """Statistics of every tap over all rows, and an evenly spread sample of at most 8,192 rows."""
    stride = -(-readings.rows // _SAMPLE)
    stats: list[Moments] | None = None
    samples: list[list[Tensor]] = [[] for _ in taps]
    for where, reading in readings:
        row = torch.arange(where.start, where.stop)
        part = [moments(f, labels[row % len(labels)], classes) for f in reading.features]
        stats = part if stats is None else [merge(a, b) for a, b in zip(stats, part, strict=True)]
        for kept, feature in zip(samples, reading.features, strict=True):
            kept.append(feature[row % stride == 0])
    if stats is None:
        raise ValueError("a bank needs at least one training image")
    return stats, [torch.cat(kept) for kept in samples]


def _compute(
    readers: Readers, taps: tuple[Tap, ...], views: ViewSource, settings: BankSettings, readings: _Pass
) -> Bank:
    _, first = next(iter(readings))
    labels, classes = views.labels.cpu(), first.logits.shape[1]
    stats, samples = _statistics(readings, labels, taps, classes)
    generator = child_generator(0, "bank", "sketch")
    projections = tuple(
        fit_projection(sample, s, settings.width, generator) for sample, s in zip(samples, stats, strict=True)
    )
    spatial = [i for i, tap in enumerate(taps) if tap.spatial] if settings.grid else []
    rows = readings.rows if views.views else 0
    shape = (rows, len(taps), settings.width)
    bank = Bank(
        features=torch.empty(shape, dtype=torch.half),
        logits=torch.empty(rows, classes, dtype=torch.half),
        labels=labels,
        views=views.views,
        taps=taps,
        projections=projections,
        fisher=tuple(fisher_ratio(s) for s in stats),
        grid=settings.grid if spatial else 0,
        cells=torch.empty(rows, len(spatial), settings.grid**2, settings.width, dtype=torch.half)
        if spatial
        else None,
    )
    for where, reading in readings if rows else ():
        bank.features[where] = _half(project_all(projections, reading.features))
        bank.logits[where] = _half(reading.logits)
        if bank.cells is not None:
            bank.cells[where] = _half(project_cells([projections[i] for i in spatial], reading.cells))
    return bank


def _half(values: Tensor) -> Tensor:
    return values.clamp(-_HALF_MAX, _HALF_MAX).half()

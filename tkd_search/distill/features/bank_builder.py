"""Computes a bank: runs frozen big models over every view of every training image, in parts if needed.

There are two steps: a *survey* of the taps (statistics, and a sample for principal directions), over all
rows or 131,072 of them, evenly spread; then the rows. Several workers each survey a part of the rows, merge
their surveys and compute their rows. The joined result equals, up to rounding, the bank that one worker
computes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.ensemble_reader import EnsembleReader, Reading
from tkd_search.distill.features.projection import fit_projection, project_all, project_cells
from tkd_search.distill.features.tap_statistics import Moments, fisher_ratio, merge, moments
from tkd_search.distill.features.taps import find_taps_of_all, taps_with_cells
from tkd_search.distill.interfaces import ViewSource, channels_last
from tkd_search.distill.losses.functional import known_or_predicted
from tkd_search.distill.method_settings import BankSettings
from tkd_search.distill.training.read_ahead import images_ahead
from tkd_search.seeds import child_generator

Progress = Callable[[int, int], None]
_SURVEYED, _SAMPLE = 1 << 17, 8192
_KEEP_BYTES = 1 << 30
_HALF_MAX = 60000.0


@dataclass(frozen=True)
class Survey:
    """Statistics and sampled features of every tap over some rows.

    Attributes:
        stats: statistics per tap.
        samples: per tap the features [S_p, C_i] of those rows that are in the sample: at most 8,192 of the
            surveyed rows, evenly spread.
    """

    stats: tuple[Moments, ...]
    samples: tuple[Tensor, ...]

    def tensors(self) -> dict[str, Tensor]:
        """Return all values as tensors by name, for storage."""
        named = {f"{i}.sample": sample.contiguous() for i, sample in enumerate(self.samples)}
        for i, stats in enumerate(self.stats):
            named[f"{i}.count"] = torch.tensor(stats.count)
            named |= {f"{i}.{name}": getattr(stats, name).contiguous() for name in _OF_MOMENTS}
        return named

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> "Survey":
        """Build the survey from the result of ``tensors``."""
        taps = range(sum(name.endswith(".sample") for name in tensors))
        stats = [
            Moments(int(tensors[f"{i}.count"]), *(tensors[f"{i}.{name}"] for name in _OF_MOMENTS))
            for i in taps
        ]
        return cls(tuple(stats), tuple(tensors[f"{i}.sample"] for i in taps))


_OF_MOMENTS = tuple(field.name for field in fields(Moments) if field.name != "count")


def merge_surveys(parts: Sequence[Survey]) -> Survey:
    """Return the survey of the union of the parts, which must be in the order of their rows."""
    merged = parts[0]
    for part in parts[1:]:
        merged = Survey(
            tuple(map(merge, merged.stats, part.stats)),
            tuple(torch.cat(pair) for pair in zip(merged.samples, part.samples, strict=True)),
        )
    return merged


def compute_bank(
    models: Sequence[nn.Module],
    views: ViewSource,
    settings: BankSettings,
    *,
    device: str | torch.device = "cpu",
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Bank:
    """Compute the whole bank in one process; for arguments and errors see :class:`BankBuilder`."""
    with BankBuilder(
        models, views, settings, device=device, batch_size=batch_size, progress=progress
    ) as builder:
        return builder.bank(builder.survey())


def bank_rows(views: ViewSource) -> int:
    """Return the number of rows: every view of every image, or one draw per image where views are free."""
    return max(views.views, 1) * len(views)


class BankBuilder:
    """Runs frozen big models over a part of the rows.

    Use as a context manager: hooks are in the models while it is open.

    Args:
        models: F, or several; moved to ``device`` and run in eval mode; their mode is restored.
        views: the training images. With ``views.views`` 0 (freely drawn) only statistics and projections
            are made, over one draw per image, and no rows are kept.
        settings: taps, width and grid; without taps the bank has logits alone.
        device: the device of the models, on which features are projected; the bank is in main memory.
        batch_size: rows per forward pass.
        progress: called with (rows done, rows of this part).
        part: (number, count): the rows of this part, where all rows are split into ``count`` equal successive
            parts.

    The models run once where there is one part and its raw features fit into 1 GiB, else once for the survey
    and once for the rows.

    Raises:
        ValueError: the part has no rows.
        UserError: a tap pattern matches no module.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        views: ViewSource,
        settings: BankSettings,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 256,
        progress: Progress | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        number, count = part
        rows = range(*(bank_rows(views) * edge // count for edge in (number, number + 1)))
        if not rows:
            raise ValueError(f"part {number + 1} of {count} of a bank of {bank_rows(views)} rows is empty")
        self._models, self._views, self._settings = models, views, settings
        self._modes = [model.training for model in models]
        for model in models:
            model.eval().to(device)
        example = views.batch(torch.zeros(1, dtype=torch.long), torch.zeros(1, dtype=torch.long))
        found = find_taps_of_all(models, settings.taps, [example.to(device)] * len(models))
        self._taps, self._classes = found if settings.taps else (), found[-1].channels
        self._cell_taps = taps_with_cells(self._taps, settings.cells) if settings.grid else ()
        self._reader = EnsembleReader(models, self._taps, settings.grid, self._cell_taps)
        # A worker with a part computes survey and rows in two jobs and cannot keep features between them.
        keep = _KEEP_BYTES if count == 1 else 0
        self._readings = _ReadingPass(self._reader, views, rows, device, batch_size, progress, keep)

    def __enter__(self) -> "BankBuilder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.close()
        for model, mode in zip(self._models, self._modes, strict=True):
            model.train(mode)

    @property
    def row_count(self) -> int:
        """Number of rows that :meth:`rows` yields: none where views are drawn freely."""
        return len(self._readings.rows) if self._views.views else 0

    @torch.no_grad()
    def survey(self) -> Survey:
        """Return the survey of this part's rows; without taps there is nothing to read.

        The class of an unlabelled image is the predicted one.
        """
        if not self._taps:
            return Survey((), ())
        labels, own = self._views.labels.cpu(), self._readings.rows
        step = -(-bank_rows(self._views) // _SURVEYED)
        stride = step * -(-bank_rows(self._views) // (step * _SAMPLE))
        stats: list[Moments] | None = None
        samples: list[list[Tensor]] = [[] for _ in self._taps]
        for row, on_device in self._readings(range(-(-own.start // step) * step, own.stop, step)):
            reading = on_device.to("cpu")
            of_rows = known_or_predicted(labels[row % len(labels)], reading.logits)
            seen = [moments(f, of_rows, reading.logits.shape[1]) for f in reading.features]
            stats = seen if stats is None else list(map(merge, stats, seen))
            for kept, feature in zip(samples, reading.features, strict=True):
                kept.append(feature[row % stride == 0])
        assert stats is not None
        return Survey(tuple(stats), tuple(torch.cat(kept) for kept in samples))

    def bank(self, survey: Survey) -> Bank:
        """Return the bank with the rows of this part, in memory.

        Args:
            survey: the survey of all rows.
        """
        template = self.template(survey)
        made: dict[str, Any] = {
            name: torch.empty(self.row_count, *tensor.shape[1:], dtype=tensor.dtype)
            for name, tensor in template.row_tensors().items()
        }
        for first, rows in self.rows(template):
            for name, values in rows.items():
                made[name][first : first + len(values)] = values
        return replace(template, **made)

    @torch.no_grad()
    def rows(self, template: Bank, after: int = 0) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Yield the rows of this part in order, a batch at a time: (number of the first, tensors by name).

        Args:
            template: the bank without rows (:meth:`template`).
            after: number of rows to leave out, those that are already there.
        """
        bank, own = template.to(self._readings.device), self._readings.rows
        cell_projections = [bank.projections[i] for i in bank.cell_taps]
        for row, reading in self._readings(own[after:] if self._views.views else range(0)):
            made = {"logits": reading.logits}
            if self._taps:
                made["features"] = project_all(bank.projections, reading.features)
            if cell_projections:
                made["cells"] = project_cells(cell_projections, reading.cells)
            yield int(row[0]) - own.start, {name: _half(values).cpu() for name, values in made.items()}

    def template(self, survey: Survey) -> Bank:
        """Return the bank without rows.

        Args:
            survey: the survey of all rows.
        """
        settings, generator = self._settings, child_generator(0, "bank", "sketch")
        projections = tuple(
            fit_projection(sample, stats, settings.width, generator)
            for sample, stats in zip(survey.samples, survey.stats, strict=True)
        )
        cells = torch.empty(0, len(self._cell_taps), settings.grid**2, settings.width, dtype=torch.half)
        return Bank(
            features=torch.empty(0, len(self._taps), settings.width, dtype=torch.half),
            logits=torch.empty(0, self._classes, dtype=torch.half),
            labels=self._views.labels.cpu(),
            views=self._views.views,
            taps=self._taps,
            projections=projections,
            fisher=tuple(fisher_ratio(stats) for stats in survey.stats),
            grid=settings.grid if self._cell_taps else 0,
            cell_taps=self._cell_taps,
            cells=cells if self._cell_taps else None,
        )


class _ReadingPass:
    """Iterates over batches of (row numbers, reading) in order.

    Readings of all rows are kept in main memory for another pass while they fit into ``keep_bytes``.
    """

    def __init__(
        self,
        reader: EnsembleReader,
        views: ViewSource,
        rows: range,
        device: str | torch.device,
        batch_size: int,
        progress: Progress | None,
        keep_bytes: int,
    ) -> None:
        self._reader, self._views, self._size = reader, views, batch_size
        self._keep_bytes = keep_bytes
        self._progress = progress or (lambda done, total: None)
        self._kept: list[tuple[Tensor, Reading]] = []
        self.rows, self.device = rows, device

    def __call__(self, rows: range) -> Iterator[tuple[Tensor, Reading]]:
        """Read some of the rows."""
        kept = self._kept if rows == self.rows else []
        keep = rows == self.rows and self._keep_bytes > 0
        kept_bytes = sum(reading.nbytes for _, reading in kept)
        for row, reading in kept:
            yield row, reading.to(self.device)
        starts = range(sum(len(row) for row, _ in kept), len(rows), self._size)
        numbers = (torch.tensor(rows[start : start + self._size]) for start in starts)
        count = len(self._views)
        for index, view, images in images_ahead(
            self._views, ((row % count, row // count) for row in numbers)
        ):
            row = view * count + index
            reading = self._reader(channels_last(images.to(self.device)))
            kept_bytes += reading.nbytes
            keep = keep and kept_bytes <= self._keep_bytes
            if keep:
                self._kept.append((row, reading.to("cpu")))
            self._progress(int(row[-1]) + 1 - self.rows.start, len(self.rows))
            yield row, reading


def _half(values: Tensor) -> Tensor:
    return values.clamp(-_HALF_MAX, _HALF_MAX).half()

"""Computes a bank: runs frozen big models over every view of every training image, in parts if needed.

There are two steps: a *survey* of the taps (statistics, and a sample for principal directions), then the
rows. Several workers each survey a part of the rows, merge their surveys and compute their rows. The joined
result equals, up to rounding, the bank that one worker computes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from types import TracebackType

import torch
from torch import Tensor, nn

from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.ensemble_reader import EnsembleReader, Reading
from tkd_search.distill.features.projection import fit_projection, project_all, project_cells
from tkd_search.distill.features.tap_statistics import Moments, fisher_ratio, merge, moments
from tkd_search.distill.features.taps import find_taps_of_all
from tkd_search.distill.interfaces import ViewSource, channels_last
from tkd_search.distill.losses.functional import known_or_predicted
from tkd_search.distill.method_settings import BankSettings
from tkd_search.seeds import child_generator

Progress = Callable[[int, int], None]
_SAMPLE = 8192
_KEEP_BYTES = 1 << 30
_HALF_MAX = 60000.0


@dataclass(frozen=True)
class Survey:
    """Statistics and sampled features of every tap over some rows.

    Attributes:
        stats: statistics per tap.
        samples: per tap the features [S_p, C_i] of those rows that are in the sample: at most 8,192 of all
            rows, evenly spread.
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
        device: the device of the models; the bank is in main memory.
        batch_size: rows per forward pass.
        progress: called with (rows done, rows of this part).
        part: (number, count): the rows of this part, where all rows are split into ``count`` equal successive
            parts.

    The models run once where there is one part and its raw features fit into 1 GiB, else twice (for the
    survey and for the rows).

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
        found = find_taps_of_all(models, settings.taps, example.to(device))
        self._taps, self._classes = found if settings.taps else (), found[-1].channels
        self._reader = EnsembleReader(models, self._taps, settings.grid)
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

    @torch.no_grad()
    def survey(self) -> Survey:
        """Return the survey of this part's rows; without taps there is nothing to read.

        The class of an unlabelled image is the predicted one.
        """
        if not self._taps:
            return Survey((), ())
        labels = self._views.labels.cpu()
        stride = -(-bank_rows(self._views) // _SAMPLE)
        stats: list[Moments] | None = None
        samples: list[list[Tensor]] = [[] for _ in self._taps]
        for row, reading in self._readings:
            of_rows = known_or_predicted(labels[row % len(labels)], reading.logits)
            seen = [moments(f, of_rows, reading.logits.shape[1]) for f in reading.features]
            stats = seen if stats is None else list(map(merge, stats, seen))
            for kept, feature in zip(samples, reading.features, strict=True):
                kept.append(feature[row % stride == 0])
        assert stats is not None
        return Survey(tuple(stats), tuple(torch.cat(kept) for kept in samples))

    @torch.no_grad()
    def bank(self, survey: Survey) -> Bank:
        """Return the bank with the rows of this part.

        Args:
            survey: the survey of all rows.
        """
        bank = self._empty(survey)
        if not self._views.views:
            return bank
        spatial = [bank.projections[i] for i in bank.cell_taps]
        for row, reading in self._readings:
            where = row - self._readings.rows.start
            if self._taps:
                bank.features[where] = _half(project_all(bank.projections, reading.features))
            bank.logits[where] = _half(reading.logits)
            if bank.cells is not None:
                bank.cells[where] = _half(project_cells(spatial, reading.cells))
        return bank

    def _empty(self, survey: Survey) -> Bank:
        settings, generator = self._settings, child_generator(0, "bank", "sketch")
        projections = tuple(
            fit_projection(sample, stats, settings.width, generator)
            for sample, stats in zip(survey.samples, survey.stats, strict=True)
        )
        spatial = sum(tap.spatial for tap in self._taps) if settings.grid else 0
        rows = len(self._readings.rows) if self._views.views else 0
        cells = torch.empty(rows, spatial, settings.grid**2, settings.width, dtype=torch.half)
        return Bank(
            features=torch.empty(rows, len(self._taps), settings.width, dtype=torch.half),
            logits=torch.empty(rows, self._classes, dtype=torch.half),
            labels=self._views.labels.cpu(),
            views=self._views.views,
            taps=self._taps,
            projections=projections,
            fisher=tuple(fisher_ratio(stats) for stats in survey.stats),
            grid=settings.grid if spatial else 0,
            cells=cells if spatial else None,
        )


class _ReadingPass:
    """Iterates over batches of (row numbers, reading) in order.

    Readings are kept for another pass while they fit into ``keep_bytes``.
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
        self._reader, self._views, self._device, self._size = reader, views, device, batch_size
        self._keep_bytes = keep_bytes
        self._progress = progress or (lambda done, total: None)
        self._kept: list[tuple[Tensor, Reading]] = []
        self.rows = rows

    def __iter__(self) -> Iterator[tuple[Tensor, Reading]]:
        kept_bytes = sum(reading.nbytes for _, reading in self._kept)
        yield from self._kept
        keep = True
        for start in self.rows[sum(len(row) for row, _ in self._kept) :: self._size]:
            row = torch.arange(start, min(start + self._size, self.rows.stop))
            images = self._views.batch(row % len(self._views), row // len(self._views))
            reading = self._reader(channels_last(images.to(self._device))).cpu()
            kept_bytes += reading.nbytes
            keep = keep and kept_bytes <= self._keep_bytes
            if keep:
                self._kept.append((row, reading))
            self._progress(int(row[-1]) + 1 - self.rows.start, len(self.rows))
            yield row, reading


def _half(values: Tensor) -> Tensor:
    return values.clamp(-_HALF_MAX, _HALF_MAX).half()

"""The bank: features and logits of the big models for every view of every training image, computed once.

Steps 1 and 2 of the article: F's features are the pooled activations of its taps, standardised by their
statistics over the training set, or 131,072 rows of a larger one (docs/method.md, equations 1 and 2).
:mod:`tkd_search.distill.features.bank_builder` computes the bank.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tkd_search.distill.features.projection import Projection
from tkd_search.distill.features.taps import Tap, taps_with_cells
from tkd_search.distill.method_settings import BankSettings


def bank_row_bytes(taps: Sequence[Tap], settings: BankSettings, classes: int) -> int:
    """Return the bytes of one row: features, logits and cells in half precision."""
    taps = taps if settings.taps else ()
    cells = len(taps_with_cells(taps, settings.cells)) * settings.grid**2
    return 2 * ((len(taps) + cells) * settings.width + classes)


@dataclass(frozen=True)
class Bank:
    """Pooled tap features and logits of the big models, for A fixed views of N training images.

    Rows are ordered view by view: row = view·N + index, R = A·N of them. A bank for freely drawn views
    (``views`` 0) has no rows, only the taps and projections that a live big model's features need.
    """

    features: Tensor
    """Y, fp16 [R, M, P]; M = 0 in a bank of logits alone."""
    logits: Tensor
    """a, fp16 [R, c]; for several big models the log of their mean probability."""
    labels: Tensor
    """int64 [N]."""
    views: int
    """A; 0 for freely drawn views."""
    taps: tuple[Tap, ...]
    projections: tuple[Projection, ...]
    fisher: tuple[float, ...]
    """Ratio of between-class to within-class variance per tap."""
    grid: int = 0
    """Cells per side; 0 where no cells are kept."""
    cell_taps: tuple[int, ...] = ()
    """Positions in ``taps`` of the taps with cells, in the order of ``cells``."""
    cells: Tensor | None = None
    """fp16 [R, M_s, G², P], or None."""

    @property
    def width(self) -> int:
        """Width P of a row."""
        return self.features.shape[2]

    @property
    def widths(self) -> list[int]:
        """Number of channels per tap that are not padding, min(C_i, P)."""
        return [projection.real for projection in self.projections]

    @property
    def classes(self) -> int:
        """Number of classes c."""
        return self.logits.shape[1]

    @property
    def nbytes(self) -> int:
        """Size of the rows in bytes."""
        return sum(tensor.nbytes for tensor in self.row_tensors().values())

    def row_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that have a row for every view of every image, by name."""
        named = {"features": self.features, "logits": self.logits}
        return named if self.cells is None else {**named, "cells": self.cells}

    def rows(self, view: Tensor, index: Tensor) -> Tensor:
        """Return the row numbers [B] of views [B] of images [B]."""
        return view * len(self.labels) + index

    def to(self, device: torch.device | str) -> "Bank":
        """Return the same bank on another device; its labels stay where they are."""
        return replace(
            self,
            features=self.features.to(device),
            logits=self.logits.to(device),
            cells=None if self.cells is None else self.cells.to(device),
            projections=tuple(projection.to(device) for projection in self.projections),
        )

    def without_rows(self) -> "Bank":
        """Return the taps and projections alone, for big models that run live."""
        # Copies, because a view of no row keeps the memory of all.
        none = {name: rows[:0].clone() for name, rows in self.row_tensors().items()}
        return replace(self, features=none["features"], logits=none["logits"], cells=none.get("cells"))

    def to_if_it_fits(self, device: torch.device) -> "Bank":
        """Return the bank on a GPU if it takes at most half of the free memory there; else as it is."""
        fits = device.type == "cuda" and self.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
        return self.to(device) if fits else self

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, for storage; ``meta`` returns the rest."""
        named = {**self.row_tensors(), "labels": self.labels}
        for i, projection in enumerate(self.projections):
            named[f"projection.{i}.mean"] = projection.mean
            named[f"projection.{i}.scale"] = projection.scale
            if projection.basis is not None:
                named[f"projection.{i}.basis"] = projection.basis
        return named

    def meta(self) -> dict[str, Any]:
        """Return everything but the tensors, as JSON values."""
        return {
            "views": self.views,
            "width": self.width,
            "grid": self.grid,
            "cell_taps": list(self.cell_taps),
            "fisher": list(self.fisher),
            "taps": [[tap.name, tap.channels, tap.positions, tap.model] for tap in self.taps],
        }

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], meta: Mapping[str, Any]) -> "Bank":
        """Build the bank from the results of ``tensors`` and ``meta``; tensors may be memory-mapped.

        Raises:
            KeyError: a tensor or a value is missing.
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
            cell_taps=tuple(meta["cell_taps"]),
            cells=tensors.get("cells"),
        )

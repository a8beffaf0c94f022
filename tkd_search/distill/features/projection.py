"""Projection of tap features into the bank: standardisation and the top P principal directions."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tkd_search.distill.features.tap_statistics import Moments

_EXACT_UP_TO = 1024
_SCALE_OFFSET = 1e-3


@dataclass(frozen=True)
class Projection:
    """The projection of one tap: y = ((ℓ − μ)/(σ + 1e-3))·Q, padded with zeros to P channels.

    ``mean`` and ``scale`` (σ + 1e-3) are [C]; ``basis`` Q is [C, P], or None where C ≤ P (Q = identity).
    """

    mean: Tensor
    scale: Tensor
    basis: Tensor | None
    width: int

    @property
    def real(self) -> int:
        """Number of channels that are not padding: min(C, P)."""
        return self.width if self.basis is not None else len(self.mean)

    def __call__(self, features: Tensor) -> Tensor:
        """Project features [..., C] → y [..., P]."""
        u = (features - self.mean) / self.scale
        return F.pad(u, (0, self.width - u.shape[-1])) if self.basis is None else u @ self.basis

    def to(self, device: torch.device | str) -> "Projection":
        """Return the same projection on another device."""
        basis = None if self.basis is None else self.basis.to(device)
        return Projection(self.mean.to(device), self.scale.to(device), basis, self.width)


def fit_projection(sample: Tensor, stats: Moments, width: int, generator: torch.Generator) -> Projection:
    """Fit the projection of one tap.

    Args:
        sample: features [S, C] from which the principal directions are computed; unused where C ≤ P.
        stats: μ and σ over all rows.
        width: P.
        generator: draws the start of the randomised decomposition of more than 1,024 channels.

    One factor scales all directions so that y has unit mean variance over the sample. The largest entry of
    each direction is positive, so equal features always give an equal bank.
    """
    mean, scale = stats.mean.float(), stats.variance.sqrt().float() + _SCALE_OFFSET
    if len(mean) <= width:
        return Projection(mean, scale, None, width)
    u = (sample.float() - mean) / scale
    basis = _principal_directions(u, width, generator)
    basis = basis * basis.gather(0, basis.abs().argmax(0, keepdim=True)).sign()
    projected = u @ basis
    return Projection(mean, scale, basis / projected.std().clamp_min(1e-6), width)


def _principal_directions(u: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Return the top directions [C, width] of rows u [S, C], padded with zeros where S < width."""
    channels = u.shape[1]
    if channels <= _EXACT_UP_TO:
        _, vectors = torch.linalg.eigh((u.T @ u).double())
        return vectors[:, -width:].flip(1).float().contiguous()
    basis = torch.randn(channels, min(width + 8, len(u)), generator=generator).to(u)
    for _ in range(4):
        basis = torch.linalg.qr(u.T @ (u @ basis)).Q
    _, _, right = torch.linalg.svd(u @ basis, full_matrices=False)
    found = basis @ right[:width].T
    return F.pad(found, (0, width - found.shape[1]))


def project_all(projections: Sequence[Projection], features: Sequence[Tensor]) -> Tensor:
    """Project features per tap ([B, C_i] each) → y [B, M, P]."""
    return torch.stack([project(f) for project, f in zip(projections, features, strict=True)], 1)


def project_cells(projections: Sequence[Projection], cells: Sequence[Tensor]) -> Tensor:
    """Project cells per spatial tap ([B, C_i, G²] each) → [B, M_s, G², P] by the pooled statistics."""
    done = [project(c.transpose(1, 2)) for project, c in zip(projections, cells, strict=True)]
    return torch.stack(done, 1)

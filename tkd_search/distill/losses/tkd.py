"""The objective of TKD: generated teachers, gradient reward, feature rewards and relation term."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from tkd_search.distill.features.signal_source import Signals
from tkd_search.distill.interfaces import UNLABELLED, StudentOutput
from tkd_search.distill.losses import functional
from tkd_search.distill.losses.gradient_reward import BOUNDS, gradient_length, theta_gradient
from tkd_search.distill.losses.objective import Batch, Context, Terms, mixed_terms, required
from tkd_search.distill.losses.similarity import ADAPTED, FEATURE_REWARDS, MIN_ROWS
from tkd_search.distill.losses.spatial_losses import (
    cells_on_common_grid,
    local_feature_loss,
    local_teacher_loss,
)
from tkd_search.distill.losses.stage_reward import StageReward
from tkd_search.distill.method_needs import needs_of
from tkd_search.distill.method_settings import MethodSettings
from tkd_search.distill.teachers.criteria import Snapshot
from tkd_search.distill.teachers.generators import (
    Generated,
    Generators,
    candidate_names,
    parameter_norms,
    standardised,
)
from tkd_search.distill.teachers.selection import Selection, select

ALL_CANDIDATES_EVERY = 4
"""Interval in steps at which all candidates learn; the selected ones learn at every step."""


class GeneratedTeachers(nn.Module):
    """The objective of TKD (docs/method.md, equation 9) and the loss of its generators (equation 5).

    With η = ξ = κ = 0, λ = β = 0 is exactly plain training and γ = β = 0 is exactly Hinton's KD.

    Raises:
        ValueError: a term needs a bank and there is none, or cells that the bank does not have.
    """

    def __init__(self, settings: MethodSettings, context: Context) -> None:
        super().__init__()
        s = settings
        self.generating = s.lam * s.gamma + s.beta + s.local_feature + s.stage_feature > 0
        self.needs = needs_of(s)
        self._settings, self._context = settings, context
        self.generators: Generators | None = None
        self.adapters: nn.Parameter | None = None
        self.stages: StageReward | None = None
        self.selection: Selection | None = None
        self._prepare()

    def _prepare(self) -> None:
        s, bank = self._settings, self._context.bank
        if not self.needs.features:
            return
        if bank is None:
            raise ValueError("method.name = tkd with gamma, beta or relation > 0 needs a bank")
        if self.needs.cells and not bank.grid and any(tap.spatial for tap in bank.taps):
            name = next(n for n in ("local", "local_feature", "stage_feature") if getattr(s, n) > 0)
            raise ValueError(f"method.{name} > 0 needs cells of spatial taps: set bank.grid to 4")
        self._relation_tap = self._context.deepest_spatial_tap()
        if not self.generating:
            return
        self.generators = Generators(
            bank.widths,
            bank.classes,
            width=bank.width,
            masks=s.masks,
            activation=s.activation,
            theta0=s.theta0,
            theta_frozen=s.theta_frozen,
            generator=self._context.generator,
        )
        self._names = candidate_names(bank.taps, s.masks)
        self.fisher: Tensor
        self.register_buffer("fisher", torch.tensor(bank.fisher).repeat(s.masks))
        self._cell_of = {tap: i for i, tap in enumerate(bank.cell_taps)}
        if (s.beta > 0 and s.feature_reward in ADAPTED) or s.local_feature > 0:
            width = self._context.student.feature_width
            shape = (len(bank.taps), bank.width, width)
            start = torch.randn(shape, generator=self._context.generator) / width**0.5
            self.adapters = nn.Parameter(start)
        if s.stage_feature > 0 and self._context.stages:
            self.stages = StageReward(
                self._context.stages,
                bank.taps,
                bank.cell_taps,
                width=bank.width,
                grid=bank.grid,
                generator=self._context.generator,
            )

    def student_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the adapters of the feature rewards."""
        if self.adapters is not None:
            yield self.adapters
        if self.stages is not None:
            yield from self.stages.parameters()

    def teachers(self) -> tuple[tuple[str, float], ...]:
        """Return names and weights of the selected teachers, best first; empty before a selection."""
        if self.selection is None:
            return ()
        chosen = self.selection.candidates.tolist()
        return tuple(
            (self._names[k], w) for k, w in zip(chosen, self.selection.weights.tolist(), strict=True)
        )

    def agreements(self) -> tuple[tuple[str, float], ...]:
        """Return names of the teachers and their CKA with the student at the time of selection."""
        if self.selection is None:
            return ()
        chosen = self.selection.candidates.tolist()
        values = self.selection.agreement.tolist()
        return tuple((self._names[k], value) for k, value in zip(chosen, values, strict=True))

    @torch.no_grad()
    def reselect(
        self, output: StudentOutput, signals: Signals, labels: Tensor, generator: torch.Generator
    ) -> None:
        """Select teachers anew from the student's output for a sample of training rows."""
        if self.generators is None or self._context.bank is None or signals.features is None:
            return
        gens, z = self.generators, output.logits.float()
        generated = gens(signals.features, standardised(z), slopes=True)
        score_norm, head_norm = parameter_norms(gens)
        snapshot = Snapshot(
            labels=labels,
            logits=z,
            hidden=output.features.float(),
            teachers=generated.logits,
            features=generated.features,
            slopes=generated.slopes,
            score_head=gens.score_head(torch.arange(gens.count, device=z.device)),
            score_norm=score_norm,
            head_norm=head_norm,
            fisher=self.fisher,
            tau=self._settings.tau,
        )
        taps = len(self._context.bank.taps)
        self.restore(select(self._settings, snapshot, taps=taps, generator=generator).to(z.device))

    def restore(self, selection: Selection) -> None:
        """Use a given selection (from rank 0 or from a checkpoint)."""
        self.selection = selection
        taps = (selection.candidates % (required(self.generators).count // self._settings.masks)).tolist()
        spatial = [j for j, tap in enumerate(taps) if tap in self._cell_of]
        device = selection.candidates.device
        self._spatial = torch.tensor(spatial, dtype=torch.long, device=device)
        self._cells = torch.tensor([self._cell_of[taps[j]] for j in spatial], dtype=torch.long, device=device)

    def ramp(self, progress: float) -> float:
        """Return γ_t/γ in [0, 1], which rises linearly over the warm-up."""
        return min(1.0, progress / self._settings.warmup) if self._settings.warmup > 0 else 1.0

    def terms(self, batch: Batch) -> Terms:
        """Return the student's terms and, where there are generators, their loss L_gen as ``generators``.

        L_gen has no gradient in the student.
        """
        s = self._settings
        gamma = s.gamma * self.ramp(batch.progress)
        terms = mixed_terms(s, self._context, batch, gamma, s.big_model_term)
        if self.generators is not None and self.selection is not None:
            terms.update(self._generated_terms(batch, gamma, self.generators, self.selection))
        if s.relation > 0:
            terms["relation"] = s.relation * self._relation(batch)
        return terms

    def _generated_terms(self, batch: Batch, gamma: float, gens: Generators, chosen: Selection) -> Terms:
        s, features = self._settings, required(required(batch.signals).features)
        all_learn = batch.step % ALL_CANDIDATES_EVERY == 0
        candidates = None if all_learn else chosen.candidates
        rewarded = s.r > 0 and s.lam * gamma > 0
        zbar = standardised(batch.output.logits)
        generated = gens(features, zbar, candidates, slopes=rewarded)
        log_p = (generated.logits / s.tau).log_softmax(-1)
        log_q = (batch.output.logits / s.tau).log_softmax(-1)
        terms = {"generators": self._generator_loss(batch, generated, log_p, log_q.detach())}
        if all_learn:
            generated = Generated(*(None if part is None else part[chosen.candidates] for part in generated))  # type: ignore[arg-type]
            log_p = log_p[chosen.candidates]
        generated = Generated(*(None if part is None else part.detach() for part in generated))  # type: ignore[arg-type]
        if s.lam * gamma > 0:
            terms.update(self._agreement(s.lam * gamma, gens, chosen, generated, log_p.detach(), log_q))
        if self.needs.cells and len(self._spatial):
            terms.update(self._spatial_terms(s.lam * gamma, batch, gens, chosen, generated))
        if self.stages is not None and self.stages.pairs:
            cells = required(required(batch.signals).cells)
            terms["stage_feature"] = s.stage_feature * self.stages(batch.output.stages, cells, gens)
        rows = len(batch.labels) * self._context.reduction.size
        if s.beta > 0 and rows >= MIN_ROWS:
            reward = self._feature_reward(batch.output.features, generated.features, gens, chosen)
            terms["feature"] = s.beta * (chosen.weights @ reward)
        return terms

    def _generator_loss(self, batch: Batch, generated: Generated, log_p: Tensor, log_q: Tensor) -> Tensor:
        """Return L_gen (equation 5): labels, the big model's logits and, weighted ρ, the student's logits.

        In unlabelled rows the big model's logits take the place of the labels.
        """
        s = self._settings
        square, p = s.tau * s.tau, log_p.exp()
        hard = batch.over_labels(lambda labels: functional.generator_losses(generated.logits, labels).mean())
        loss = (1 - s.generator_kd) * hard
        if s.generator_kd > 0 or batch.labelled is not None:
            log_f = (required(batch.signals).logits / s.tau).log_softmax(-1)
            per_row = (log_f.exp() * (log_f - log_p)).sum(-1)
            share: Tensor | float = s.generator_kd
            if batch.labelled is not None:
                share = 1 - (1 - s.generator_kd) * batch.over_labels(lambda y: (y != UNLABELLED).float())
            loss = loss + square * (share * per_row).mean()
        if s.rho > 0:
            loss = loss + s.rho * square * (p * (log_p - log_q)).sum(-1).mean()
        return loss

    def _agreement(
        self,
        weight: float,
        gens: Generators,
        chosen: Selection,
        generated: Generated,
        log_p: Tensor,
        log_q: Tensor,
    ) -> Terms:
        """Return λγ_t·Σ w_k J_k and the negated gradient reward −R (equations 7 and 8)."""
        s, w, reduction = self._settings, chosen.weights, self._context.reduction
        j = s.tau * s.tau * (log_p.exp() * (log_p - log_q)).sum(-1).mean(1)
        terms = {"generated": weight * (w @ j)}
        if generated.slopes is not None:
            head = gens.score_head(chosen.candidates).detach()
            slope = reduction.mean(theta_gradient(log_p, log_q, head, generated.slopes, s.tau))
            gain = BOUNDS[s.bound](s.alpha / 2 * gradient_length(slope), reduction.mean(j))
            terms["gradient"] = -s.r * weight * (w @ gain)
        return terms

    def _feature_reward(self, hidden: Tensor, targets: Tensor, gens: Generators, chosen: Selection) -> Tensor:
        """Return L_R(h, φ(y_k)) per teacher [K]."""
        kind, reduction = self._settings.feature_reward, self._context.reduction
        if kind not in ADAPTED:
            targets = reduction.gather(targets.transpose(0, 1)).transpose(0, 1)
            return FEATURE_REWARDS[kind](reduction.gather(hidden), targets)
        adapters = required(self.adapters)[gens.tap[chosen.candidates]]
        predicted = torch.matmul(hidden, adapters.transpose(1, 2)) * gens.mask[chosen.candidates][:, None]
        return FEATURE_REWARDS[kind](predicted, targets)

    def _spatial_terms(
        self, weight: float, batch: Batch, gens: Generators, chosen: Selection, generated: Generated
    ) -> Terms:
        """Return the terms of local teachers and local features (equations 10 and 11) of spatial taps."""
        s, terms = self._settings, Terms()
        cells = required(required(batch.signals).cells).index_select(1, self._cells)
        common = cells_on_common_grid(batch.output.maps, cells, required(self._context.bank).grid)
        if common is None:
            return terms
        candidates = chosen.candidates[self._spatial]
        w = chosen.weights[self._spatial]
        w = w / w.sum().clamp_min(torch.finfo(w.dtype).tiny)  # 0 where all of them are too small for a float
        if weight * s.local > 0:
            z = self._context.student.classify(common.hidden)
            head = gens.feature_head(candidates).detach()
            loss = local_teacher_loss(
                z, generated.logits[self._spatial], common.features, head, s.local_temperature
            )
            terms["local"] = weight * s.local * (w @ loss)
        if s.local_feature > 0:
            mask = gens.mask[candidates]
            targets = gens.activated(common.features, candidates).detach()
            adapters = required(self.adapters)[gens.tap[candidates]]
            loss = local_feature_loss(common.hidden, targets, adapters, mask)
            terms["local_feature"] = s.local_feature * (w @ loss)
        return terms

    def _relation(self, batch: Batch) -> Tensor:
        gather, h = self._context.reduction.gather, batch.output.features
        tap = required(required(batch.signals).features)[:, self._relation_tap].to(h.dtype)
        return functional.relation(gather(tap), gather(h), self._settings.relation_temperature)

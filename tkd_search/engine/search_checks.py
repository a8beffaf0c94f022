"""Checks of a search that concern several settings, or settings and data, before anything is written."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tkd_search.config.experiment_file import Config
from tkd_search.config.pruner import configured_pruner
from tkd_search.config.resolve import LOCAL, resolve
from tkd_search.config.search_settings import SearchSettings
from tkd_search.data import DataBundle
from tkd_search.data.networks import big_model_for
from tkd_search.distill.features.bank import bank_row_bytes
from tkd_search.distill.features.taps import Tap, find_taps_of_all
from tkd_search.distill.training.batch_order import unlabelled_per_epoch
from tkd_search.engine.latencies import measure_latency
from tkd_search.engine.student_checks import check_students
from tkd_search.engine.student_weights import check_student_weights
from tkd_search.errors import UserError
from tkd_search.masking import masked
from tkd_search.models.build import is_trained
from tkd_search.models.model_settings import BigModelSettings, StudentSettings
from tkd_search.models.weights import Head
from tkd_search.optimize.check_sampler import check_sampler
from tkd_search.optimize.history import renumber
from tkd_search.optimize.proposer import ProposerSettings
from tkd_search.optimize.pruners.base import Pruner
from tkd_search.optimize.samplers.create_sampler import DESIGNS, SAMPLERS
from tkd_search.optimize.study import earlier_trials
from tkd_search.optimize.study_trial import StudyTrial
from tkd_search.results.costs import COSTS

_SPATIAL_WEIGHTS = (*LOCAL, "method.stage_feature")
"""Weights of loss terms that compare cells of feature maps."""


@dataclass(frozen=True)
class CheckedSearch:
    """The results of the checks that the search itself needs.

    Attributes:
        taps: number of taps over all big models.
        row_bytes: bytes of the bank per view of an image.
        pruner: the configured pruner.
        earlier: trials of the searches in ``search.warm_start``.
        students: one student for every option that decides the student.
        notes: lines for the user, those on the data first.
    """

    taps: int
    pruner: Pruner
    earlier: tuple[StudyTrial, ...]
    students: tuple[StudentSettings, ...]
    notes: tuple[str, ...]
    row_bytes: int = 0


def check_search(config: Config, data: DataBundle) -> CheckedSearch:
    """Check what would otherwise fail only after the big model is trained.

    Raises:
        UserError: the pruner, the sampler, an earlier search, a student, its format, taps or K do not fit.
    """
    pruner = configured_pruner(config, data.num_classes)
    _check_sampler(config)
    earlier, earlier_notes = _warm_start(config)
    students, student_notes = check_students(config, data)
    started = check_student_weights(config, data)
    _check_latencies(config, students, data)
    taps, tuned = _check_candidates(config, data)
    notes = (*data.notes, *_unlabelled_notes(config, data), *tuned, *started, *_notes(config, len(taps)))
    notes += (*student_notes, *earlier_notes)
    row_bytes = bank_row_bytes(taps, resolve(config).bank, data.num_classes)
    return CheckedSearch(len(taps), pruner, earlier, students, notes, row_bytes)


def proposer_settings(search: SearchSettings) -> ProposerSettings:
    """Return the settings of the sampler."""
    return ProposerSettings(
        sampler=search.sampler,
        startup=search.startup_trials,
        options=search.sampler_args,
        learning=search.learning,
    )


def _check_sampler(config: Config) -> None:
    search = config.settings().search
    try:
        check_sampler(
            proposer_settings(search),
            config.space,
            full_budget=config.settings().training.epochs,
            seed=config.settings().seed,
        )
    except Exception as error:  # a sampler may refuse this space or two objectives with any
        raise UserError(
            "search.sampler",
            f"{search.sampler!r} with search.sampler_args {search.sampler_args} "
            f"({str(error) or type(error).__name__})",
            f"{', '.join(['ehvi', *SAMPLERS, *DESIGNS])} or package.module:Class that accepts two objectives "
            "and this space, with its own arguments",
            "another sampler has other arguments: --set search.sampler_args={} takes its defaults",
        ) from error


def _warm_start(config: Config) -> tuple[tuple[StudyTrial, ...], tuple[str, ...]]:
    """Return the trials of the searches in ``search.warm_start``, and how many of each lie in this space.

    Raises:
        UserError: one of them does not exist, or minimises another cost.
    """
    trials: list[StudyTrial] = []
    notes: list[str] = []
    unit = COSTS[config.settings().search.cost].unit
    for name in config.settings().search.warm_start:
        journal = config.folder.absolute().parent / name / "study.journal"
        try:
            found = earlier_trials(journal if journal.exists() else name, unit=unit)
        except (ValueError, OSError) as error:
            raise UserError(
                "search.warm_start",
                f"{name!r} ({error})",
                "names of earlier runs with the same search.cost, or their study storages",
            ) from error
        trials.extend(found)
        used = len(renumber(found, config.space))
        hint = (
            ""
            if used
            else "; a trial counts where it searched the same leaves, with values that this search allows"
        )
        notes.append(
            f"search.warm_start: {masked(name)}: {used} of {len(found)} trials are learnt from{hint}"
        )
    return tuple(trials), tuple(notes)


def _check_latencies(config: Config, students: Sequence[StudentSettings], data: DataBundle) -> None:
    """Measure briefly what a search by latency, or with a limit on it, must measure.

    Raises:
        UserError: the first big model or a student cannot be exported or run.
    """
    search, big_model = config.settings().search, config.settings().big_models[0]
    if search.cost != "latency" and search.latency_limit is None:
        return
    if search.cost == "latency":
        measure_latency(big_model, "fp32", data, big_model, seconds=0.0)
    for student in students:
        measure_latency(student, student.format, data, big_model, seconds=0.0)


def _check_candidates(config: Config, data: DataBundle) -> tuple[list[Tap], tuple[str, ...]]:
    """Return the taps of all big models, and a note for each that is fine-tuned.

    Raises:
        UserError: every value of ``method.k`` is above the number of candidates, no tap matches, or a loss
            term needs cells that the bank does not hold.
    """
    settings = config.settings()
    built = [(one, *big_model_for(one, data)) for one in settings.big_models]
    notes = [note for one, _, head in built for note in _fine_tuning(one, head, data)]
    models = [model for _, model, _ in built]
    examples = [torch.zeros(2, *model.input_shape) for model in models]
    taps = list(find_taps_of_all([model.model for model in models], settings.bank.taps, examples))
    _check_taps(config)
    _check_cells(config, sum(tap.spatial for tap in taps))
    count = len(taps)
    least, masks = min(config.possible("method.k")), max(config.possible("method.masks"))
    if "tkd" in config.possible("method.name") and least > count * masks:
        raise UserError(
            "method.k",
            str(least) if "method.k" not in config.space.leaves else f"at least {least}",
            f"1 to {count * masks}: {count} taps × {masks} masks",
            "lower method.k, raise method.masks, or name more bank.taps",
        )
    return taps, tuple(notes)


def _fine_tuning(model: BigModelSettings, head: Head, data: DataBundle) -> list[str]:
    """Return a note where weights are not used as they are."""
    if model.weights is None or not is_trained(model, head):
        return []
    if not head.parameters:
        return [f"{model.name}: F is fine-tuned (epochs: {model.epochs})"]
    return [
        f"{model.name}: the head has {head.classes} classes, the data {data.num_classes}: head replaced, F "
        f"fine-tuned (epochs: {model.head_epochs} of the head alone, then {model.epochs} of all layers)"
    ]


def _notes(config: Config, taps: int) -> tuple[str, ...]:
    """Return a note where the search space has values of K above the number of candidates."""
    most, masks = max(config.possible("method.k")), max(config.possible("method.masks"))
    if "method.k" not in config.space.leaves or most <= taps * masks:
        return ()
    return (
        f"method.k is searched up to {most}; at most {taps * masks} candidates exist ({taps} taps × {masks} "
        "masks), and larger values are lowered to that",
    )


def _check_taps(config: Config) -> None:
    """Refuse methods that read features where the experiment names no taps."""
    readers = sorted({"tkd", "hint", "at", "sp"} & set(config.possible("method.name")))
    if readers and not config.settings().bank.taps:
        raise UserError(
            "bank.taps",
            f"an empty list, beside method.name {', '.join(readers)}",
            "auto, or names or patterns of modules: these methods read features",
            "--set bank.taps=[auto]",
        )


def _unlabelled_notes(config: Config, data: DataBundle) -> tuple[str, ...]:
    """Return a note on what an epoch takes of unlabelled images; none without any.

    Raises:
        UserError: no method learns from them.
    """
    settings, methods = config.settings(), config.possible("method.name")
    if not data.unlabelled:
        return ()
    if set(methods) == {"ce"}:
        allowed = "a method that learns from the big model, such as kd or tkd"
        raise UserError("method.name", "ce, beside data.unlabelled", allowed)
    taken = unlabelled_per_epoch(data.train.labels, settings.training.unlabelled_ratio)
    labelled = len(data.train) - data.unlabelled
    note = (
        f"data: {data.unlabelled:,} unlabelled images; an epoch takes each of the {labelled:,} labelled ones "
        f"once and {taken:,} unlabelled ones (training.unlabelled_ratio)"
    )
    return (note + ("; method ce takes the labelled ones alone" if "ce" in methods else ""),)


def _check_cells(config: Config, maps: int) -> None:
    """Refuse loss terms that compare cells where the bank holds none; ``maps``: taps with feature maps."""
    methods = config.possible("method.name")
    users = [key for key in _SPATIAL_WEIGHTS if "tkd" in methods and max(config.possible(key)) > 0]
    if "at" in methods and not maps:
        raise UserError("method.name", "at", "another method: no tap of the big model has a feature map")
    if users and not maps:
        raise UserError(
            users[0],
            "above 0, where no tap of the big model has a feature map or a grid of patch tokens",
            "0, or a big model with one; bank.taps may leave them out",
        )
    if "stages" in config.possible("bank.cells") and any(key in LOCAL for key in users):
        raise UserError("bank.cells", "stages", f"all or auto, where {' or '.join(LOCAL)} may be above 0")
    users += ["method.name = at"] if "at" in methods else []
    if users and maps and config.settings().bank.grid == 0:
        raise UserError(
            "bank.grid",
            f"0, beside {', '.join(users)}",
            "above 0: these compare cells of feature maps",
            "--set bank.grid=4",
        )

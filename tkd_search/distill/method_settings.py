"""Settings of the method, of training and of the bank.

Symbols in brackets are from docs/method.md.
"""

from dataclasses import dataclass
from typing import Literal

from tkd_search.fields import check_bounds, setting

MethodName = Literal["tkd", "kd", "ce", "dkd", "dist", "hint", "at", "sp"]
SelectionName = Literal["heuristic", "uniform", "random", "last_k", "all"]
ActivationName = Literal["swish", "prelu", "pelu", "softplus", "rational", "identity", "relu"]
BoundName = Literal["raw", "lookahead", "tanh"]
FeatureRewardName = Literal["cka", "cos", "mse", "relation"]
MetricName = Literal["accuracy", "balanced_accuracy", "macro_f1"]
CellsName = Literal["auto", "all", "stages"]
ScheduleName = Literal["schedule_free", "one_cycle", "cosine", "constant"]

_TKD: dict[str, tuple[str, ...]] = {"name": ("tkd",)}
_HEURISTIC: dict[str, tuple[str, ...]] = {**_TKD, "selection": ("heuristic",)}
_SOFT: dict[str, tuple[str, ...]] = {"name": ("tkd", "kd", "dkd", "dist", "hint", "at", "sp")}


@dataclass(frozen=True, kw_only=True)
class MethodSettings:
    """Settings of the student's objective L_D and of its generated teachers."""

    name: MethodName = setting("tkd", doc="distillation method; all run in the same loop")
    lam: float = setting(0.9, ge=0, le=1, when=_SOFT, doc="weight of distillation against labels [λ]")
    tau: float = setting(2.0, gt=0, le=20, when=_SOFT, doc="temperature of soft targets [τ]")
    gamma: float = setting(
        0.4, ge=0, le=1, when=_TKD, doc="share of generated teachers in the distillation term [γ]"
    )
    warmup: float = setting(0.1, ge=0, le=1, when=_TKD, doc="share of the epochs over which γ ramps up")
    big_model_term: Literal["kl", "dist"] = setting(
        "kl",
        when=_TKD,
        doc="loss on the big model's logits: KL (Hinton) or DIST (Pearson correlations)",
    )

    min_confidence: float = setting(
        0.0,
        ge=0,
        lt=1,
        when=_SOFT,
        doc="leave out unlabelled images for which F's highest class probability is below this",
    )

    k: int = setting(3, ge=1, when=_TKD, doc="number of candidates selected as teachers [K]")
    masks: int = setting(
        2, ge=1, le=8, when=_TKD, doc="channel masks per tap: all channels, then fixed random halves"
    )
    selection: SelectionName = setting(
        "heuristic", when=_TKD, doc="selection of teachers; all but heuristic are controls"
    )
    omega_probe: float = setting(
        1.0, ge=0, le=1, when=_HEURISTIC, doc="weight of −CE(û, label) in the heuristic [ω]"
    )
    omega_weight_norm: float = setting(0.25, ge=0, le=1, when=_HEURISTIC, doc="weight of log‖W‖ + log‖H‖ [ω]")
    omega_fisher: float = setting(
        0.25, ge=0, le=1, when=_HEURISTIC, doc="weight of between/within class variance [ω]"
    )
    omega_alignment: float = setting(0.0, ge=0, le=1, when=_HEURISTIC, doc="weight of CKA(h, φ(y)) [ω]")
    omega_gradient: float = setting(0.0, ge=0, le=1, when=_HEURISTIC, doc="weight of log|∇θ J| [ω]")
    selection_temperature: float = setting(
        1.0, gt=0, when=_TKD, doc="softmax temperature over selected scores [T]"
    )
    reselect_every: float = setting(
        0.2, gt=0, le=1, when=_TKD, doc="share of the epochs between selections [E_sel]"
    )

    activation: ActivationName = setting("swish", when=_TKD, doc="parametric activation φ of the generators")
    theta0: float = setting(
        1.0, ge=-4, le=4, when=_TKD, doc="initial activation parameter; |θ0| ≤ 2 is safe [θ0]"
    )
    theta_frozen: bool = setting(False, when=_TKD, doc="keep θ at θ0 (the article's default activation)")
    generator_lr: float = setting(3e-3, gt=0, le=1, when=_TKD, doc="peak learning rate of the generators")
    generator_kd: float = setting(
        0.7, ge=0, le=1, when=_TKD, doc="share of the big model's logits in L_gen [a_g]"
    )
    rho: float = setting(
        0.1, ge=0, when=_TKD, doc="weight of distilling back: teachers pulled to the student [ρ]"
    )
    distil_back: Literal["generators", "big_model"] = setting(
        "generators",
        doc="networks that ρ updates; big_model also updates a copy of F and bypasses the bank",
        searchable=False,
    )
    big_model_lr: float = setting(
        1e-4,
        gt=0,
        le=1,
        when={**_TKD, "distil_back": ("big_model",)},
        doc="peak learning rate of the copy of F that learns",
    )

    r: float = setting(0.1, ge=0, when=_TKD, doc="weight of the gradient reward R; ≤ 0.5 is safe [r]")
    alpha: float = setting(1.0, gt=0, when=_TKD, doc="twice the length of the look-ahead step on θ [α]")
    bound: BoundName = setting("lookahead", when=_TKD, doc="bound of the gradient reward [𝓑]")
    beta: float = setting(0.5, ge=0, when=_TKD, doc="weight of the feature reward L_R; ≤ 1 is safe [β]")
    feature_reward: FeatureRewardName = setting("cka", when=_TKD, doc="kind of L_R")

    local: float = setting(
        0.0, ge=0, when=_TKD, doc="weight of local generated teachers; 0 = off, a usual value is 4 [ζ]"
    )
    local_temperature: float = setting(2.0, gt=0, when=_TKD, doc="temperature of local teachers [τ_l]")
    local_feature: float = setting(
        0.0, ge=0, when=_TKD, doc="weight of the feature reward at every spatial cell; 0 = off [η]"
    )
    stage_feature: float = setting(
        0.0,
        ge=0,
        when=_TKD,
        doc="weight of the feature reward at every stage of the student; 0 = off, a usual value is 12 [ξ]",
    )
    relation: float = setting(
        0.0, ge=0, when=_TKD, doc="weight of the relation term; 0 = off, a usual value is 1 [κ]"
    )
    relation_temperature: float = setting(0.1, gt=0, when=_TKD, doc="temperature of the relation term")

    hint_weight: float = setting(
        1.0,
        ge=0,
        when={"name": ("hint", "at", "sp")},
        doc="weight of the feature term of the baselines hint, at, sp",
    )
    dkd_beta: float = setting(
        2.0, ge=0, when={"name": ("dkd",)}, doc="weight of the non-target term of the baseline dkd"
    )

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of the optimiser and the budget of one training."""

    epochs: int = setting(27, ge=1, doc="full budget of one student, in epochs", searchable=False)
    validate_every: int = setting(
        1,
        ge=1,
        doc="epochs between validations; rungs and the last epoch are always validated",
        searchable=False,
    )
    batch_size: int = setting(128, ge=2, doc="global batch size (over all workers of a trial)")
    unlabelled_ratio: float | None = setting(
        None,
        ge=0,
        le=1000,
        doc="unlabelled images per labelled one, in every batch; default: as many as there are, at most 15",
        searchable=False,
    )
    optimizer: Literal["adamw", "sgd"] = setting(
        "adamw",
        doc="optimiser; sgd (momentum 0.9) needs lr about 0.1 (1 schedule_free), weight_decay about 5e-4",
    )
    lr: float = setting(6e-3, gt=0, le=1, doc="peak learning rate")
    weight_decay: float = setting(
        0.05,
        ge=0,
        doc="weight decay, decoupled with adamw; norms, biases and activations have none",
    )
    clip_norm: float = setting(0.0, ge=0, doc="largest norm of the student's gradient; 0 = no limit")
    label_smoothing: float = setting(0.0, ge=0, lt=1, doc="label smoothing of the cross-entropy term")
    mixup: float = setting(
        0.0, ge=0, doc="α of Mixup's Beta distribution, 0 = off; F must see the mixed images: data.views 0"
    )
    cutmix: float = setting(
        0.0, ge=0, doc="α of CutMix's Beta distribution, 0 = off; with mixup each takes half of the batches"
    )
    class_weights: Literal["none", "balanced"] = setting(
        "none",
        doc="weights of classes in the cross-entropy, F's training too; balanced: n / (classes · its images)",
        searchable=False,
    )
    schedule: ScheduleName = setting("schedule_free", doc="learning-rate schedule")
    ema: float = setting(
        0.0,
        ge=0,
        lt=1,
        when={"schedule": ("one_cycle", "cosine", "constant")},
        doc="decay per step of the average of weights that is evaluated and shipped; 0 = the last weights",
    )
    quantise: float = setting(
        0.25, ge=0, le=0.9, doc="share of the epochs, at the end, that train with rounding (int8 and int4)"
    )
    precision: Literal["fp32", "bf16", "fp16"] = setting("fp32", doc="autocast precision", searchable=False)
    compile: bool = setting(False, doc="torch.compile the student (faster on GPUs only)", searchable=False)

    @property
    def mixes(self) -> bool:
        """Whether images of a batch are mixed."""
        return self.mixup > 0 or self.cutmix > 0

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, kw_only=True)
class BankSettings:
    """Settings of the bank: the features of F kept for every view of every training image."""

    taps: tuple[str, ...] = setting(
        ("auto",),
        doc="modules of F whose outputs are read, by name or pattern (fnmatch), or auto: the ends of stages, "
        "at most 16; used only by methods that read features",
        searchable=False,
    )
    width: int = setting(96, ge=4, le=1024, doc="channels kept per tap [P]", searchable=False)
    grid: int = setting(
        0,
        ge=0,
        le=16,
        doc="cells per side kept of feature maps; 0 = none; method.stage_feature, local, local_feature and "
        "at need them, 4 is usual",
        searchable=False,
    )
    cells: CellsName = setting(
        "auto",
        doc="taps that keep cells: all, stages (the deepest of every map size; enough for stage_feature and "
        "at) or auto (stages, or all where local or local_feature may be above 0)",
        searchable=False,
    )

    def __post_init__(self) -> None:
        check_bounds(self)

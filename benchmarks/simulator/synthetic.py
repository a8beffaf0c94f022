"""An invented recording with the structure of real ones, for tests: never a source of published figures.

Accuracy rises with size and saturates; a few leaves matter (learning rate, distillation weight,
temperature), most do not; large learning rates start well and end badly, small ones start late, so that
early ranks are informative but not final; noise is shared along a curve.
"""

import numpy as np

from benchmarks.simulator.curves import Curves
from tkd_search.optimize.samplers.create_sampler import design_point
from tkd_search.optimize.space import Choice, Condition, FloatDistribution, IntDistribution, Space

BIG_MODEL_BYTES = 10_000_000
SPACE = Space(
    {
        "student.width": FloatDistribution(0.1, 1.0, log=True),
        "training.lr": FloatDistribution(1e-3, 3e-2, log=True),
        "method.name": Choice(("tkd", "kd", "ce")),
        "method.lam": FloatDistribution(0.3, 0.95),
        "method.tau": FloatDistribution(1.0, 4.0, log=True),
        "method.k": IntDistribution(1, 10),
        "method.activation": Choice(("swish", "prelu", "pelu")),
        "method.rho": FloatDistribution(0.01, 0.5, log=True),
        "method.beta": FloatDistribution(0.01, 1.0, log=True),
        "method.theta0": FloatDistribution(0.5, 2.0),
    },
    (
        Condition("method.lam", "method.name", ("tkd", "kd")),
        Condition("method.tau", "method.name", ("tkd", "kd")),
        *(
            Condition(f"method.{leaf}", "method.name", ("tkd",))
            for leaf in ("k", "activation", "rho", "beta", "theta0")
        ),
    ),
)


def synthetic_curves(configs: int = 200, *, epochs: int = 27, classes: int = 10, seed: int = 0) -> Curves:
    """An invented recording of quasi-random configurations."""
    rng = np.random.default_rng(seed)
    points = [SPACE.at(design_point("qmc", i, len(SPACE.leaves), seed).tolist()) for i in range(configs)]
    sizes = np.array([4 * round(5e5 * p["student.width"] ** 2 / 8) * 8 + 20_000 for p in points], float)
    curves = np.array([_curve(p, epochs, classes, rng) for p in points])
    return Curves(
        space=SPACE,
        epochs=epochs,
        classes=classes,
        big_model_bytes=BIG_MODEL_BYTES,
        configs=tuple(points),
        bytes=sizes,
        accuracy=curves,
    )


def _curve(config: dict[str, float], epochs: int, classes: int, rng: np.random.Generator) -> np.ndarray:
    rate = np.log10(config["training.lr"] / 8e-3)
    error = 0.03 + 0.12 * (0.1 / config["student.width"]) ** 0.8
    error *= 1 + 1.5 * rate**2 + (2.5 * rate**2 if rate > 0 else 0)
    if "method.lam" in config:
        error *= 1.1 - 0.5 * config["method.lam"] + 0.25 * np.log2(config["method.tau"] / 2) ** 2
    if "method.k" in config:
        error *= 0.97 + 0.02 * abs(config["method.k"] - 3) / 3
    speed = 3.0 * 10 ** (-0.7 * rate)
    error *= np.exp(0.15 * rng.standard_normal())
    t = np.arange(1, epochs + 1)
    start = 1 - 1 / classes
    path = error + (start - error) * np.exp(-((t / speed) ** 0.8))
    path += 0.01 * rng.standard_normal(epochs) * path / 0.2
    return np.clip(1 - path, 0, 1)

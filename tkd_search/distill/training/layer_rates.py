"""Learning rates that fall from the last layer to the first, for fine-tuning a pretrained network.

The layers near the input of a pretrained network need the smallest changes (Howard and Ruder 2018; Bao et
al. 2022).
"""

from collections.abc import Sequence

LEVELS = 12
"""Number of equal parts of the layers before the last; the layers of a part share one rate."""


def layer_rates(names: Sequence[str], decay: float) -> list[float]:
    """Return the learning rate of every parameter as a share of the last layer's.

    The layers are the modules that own parameters, in order of definition. The layers before the last are
    divided into ``LEVELS`` parts of equal number; each part has ``decay`` times the rate of the next one.

    Args:
        names: dotted names of the parameters, as ``named_parameters`` yields them.
        decay: factor in (0, 1] from one part to the one before it.
    """
    layers = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    last = len(layers) - 1
    rates = {
        layer: decay ** (LEVELS - LEVELS * i // last if i < last else 0) for i, layer in enumerate(layers)
    }
    return [rates[name.rpartition(".")[0]] for name in names]

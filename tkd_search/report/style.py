"""Colours and texts that the page and the picture share."""

INK = "#1d2733"
MUTED = "#66727f"
RULE = "#e4e8ec"
FAINT = "#b9c1ca"
# Okabe and Ito's colours, which every kind of colour vision can tell apart.
SERIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "pentagon", "hexagon")
MARKERS = ("o", "s", "D", "^", "p", "h")


def cost_ticks(low: float, high: float) -> list[float]:
    """Return about eight 1-2-5 positions of a logarithmic axis between two costs."""
    ticks = [(step, step * 10.0**power) for power in range(-6, 13) for step in (1, 2, 5)]
    shown = [(step, tick) for step, tick in ticks if low <= tick <= high]
    return [tick for step, tick in shown if step == 1 or len(shown) <= 9]

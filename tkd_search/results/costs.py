"""The costs that a search can minimise beside accuracy: bytes or latency."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tkd_search.units import human_bytes, milliseconds

CostName = Literal["bytes", "latency"]


@dataclass(frozen=True, kw_only=True)
class Costed:
    """A network with its cost.

    Attributes:
        bytes: length of its safetensors file.
        latency: median milliseconds of one image through its ONNX file under onnxruntime on one thread,
            measured before any training; None unless the search minimises latency.
    """

    bytes: int
    latency: float | None = None

    @property
    def cost(self) -> float:
        """Return what the search minimises: the latency where there is one, else the bytes."""
        return self.bytes if self.latency is None else self.latency


@dataclass(frozen=True, kw_only=True)
class Cost:
    """How a cost is scaled and shown.

    Attributes:
        unit: of its numbers in files and in the study.
        decades: factors of ten below F's cost at which the hypervolume's axis begins.
        noun: its name in one word.
        axis: title of an axis, in lower case.
        text: a number for people, with its unit.
    """

    unit: str
    decades: float
    noun: str
    axis: str
    text: Callable[[float], str]


COSTS: Mapping[CostName, Cost] = MappingProxyType(
    {
        "bytes": Cost(unit="bytes", decades=3.0, noun="size", axis="size of the weights", text=human_bytes),
        # A call has a fixed time, so that latencies differ by fewer factors of ten than bytes.
        "latency": Cost(
            unit="latency_ms", decades=2.0, noun="latency", axis="latency of one image", text=milliseconds
        ),
    }
)

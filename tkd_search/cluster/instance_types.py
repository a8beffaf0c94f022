"""Instance types that suit a search: what they have and what they cost.

Prices in US dollars an hour, Linux, of one cheap region of each provider (AWS us-east-1, Google us-central1),
written down from memory and not checked against the providers' lists; they are meant to be those of
``PRICES_DATE``. Spot prices move by the hour and are typical values. They serve the estimate of
``--dry-run --cluster``, which prints the date and "unchecked" beside its figures: look at the provider's own
calculator before a large search.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

PRICES_DATE = "2025-06"


@dataclass(frozen=True)
class Instance:
    """One instance type: virtual CPUs, GPUs, dollars an hour on demand and typically on spot."""

    cpus: int
    gpus: int
    on_demand: float
    spot: float


INSTANCES: Mapping[str, Instance] = MappingProxyType(
    {
        # AWS: heads
        "t3.xlarge": Instance(4, 0, 0.166, 0.066),
        "m6i.large": Instance(2, 0, 0.096, 0.040),
        "m6i.xlarge": Instance(4, 0, 0.192, 0.080),
        "m6i.2xlarge": Instance(8, 0, 0.384, 0.160),
        "c6i.4xlarge": Instance(16, 0, 0.680, 0.290),
        # AWS: GPUs (T4, A10G, L4, L40S)
        "g4dn.xlarge": Instance(4, 1, 0.526, 0.21),
        "g4dn.2xlarge": Instance(8, 1, 0.752, 0.30),
        "g4dn.12xlarge": Instance(48, 4, 3.912, 1.60),
        "g5.xlarge": Instance(4, 1, 1.006, 0.45),
        "g5.2xlarge": Instance(8, 1, 1.212, 0.55),
        "g5.12xlarge": Instance(48, 4, 5.672, 2.60),
        "g6.xlarge": Instance(4, 1, 0.805, 0.36),
        "g6.2xlarge": Instance(8, 1, 0.978, 0.44),
        "g6.12xlarge": Instance(48, 4, 4.602, 2.10),
        "g6e.xlarge": Instance(4, 1, 1.861, 0.90),
        # Google: heads
        "e2-standard-4": Instance(4, 0, 0.134, 0.054),
        "n2-standard-4": Instance(4, 0, 0.194, 0.078),
        # Google: GPUs that come with the type (L4, A100 40 GB)
        "g2-standard-4": Instance(4, 1, 0.707, 0.28),
        "g2-standard-8": Instance(8, 1, 0.854, 0.34),
        "g2-standard-48": Instance(48, 4, 4.001, 1.60),
        "a2-highgpu-1g": Instance(12, 1, 3.673, 1.80),
    }
)


def instance_resources(instance: str) -> dict[str, float]:
    """CPU and GPU of an instance type as Ray counts them; empty where the table has no such type."""
    entry = INSTANCES.get(instance)
    if entry is None:
        return {}
    return {"CPU": float(entry.cpus), **({"GPU": float(entry.gpus)} if entry.gpus else {})}

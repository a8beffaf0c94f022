"""CPUs and GPUs of the instance types that suit a search."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple


class Instance(NamedTuple):
    """Virtual CPUs and GPUs of one instance type."""

    cpus: int
    gpus: int


INSTANCES: Mapping[str, Instance] = MappingProxyType(
    {
        # AWS: heads
        "t3.xlarge": Instance(4, 0),
        "m6i.large": Instance(2, 0),
        "m6i.xlarge": Instance(4, 0),
        "m6i.2xlarge": Instance(8, 0),
        "c6i.4xlarge": Instance(16, 0),
        # AWS: GPUs (T4, A10G, L4, L40S)
        "g4dn.xlarge": Instance(4, 1),
        "g4dn.2xlarge": Instance(8, 1),
        "g4dn.12xlarge": Instance(48, 4),
        "g5.xlarge": Instance(4, 1),
        "g5.2xlarge": Instance(8, 1),
        "g5.12xlarge": Instance(48, 4),
        "g6.xlarge": Instance(4, 1),
        "g6.2xlarge": Instance(8, 1),
        "g6.12xlarge": Instance(48, 4),
        "g6e.xlarge": Instance(4, 1),
        # Google: heads
        "e2-standard-4": Instance(4, 0),
        "n2-standard-4": Instance(4, 0),
        # Google: GPUs that come with the type (L4, A100 40 GB)
        "g2-standard-4": Instance(4, 1),
        "g2-standard-8": Instance(8, 1),
        "g2-standard-48": Instance(48, 4),
        "a2-highgpu-1g": Instance(12, 1),
    }
)


def instance_resources(instance: str) -> dict[str, float]:
    """Return Ray's CPU and GPU amounts of an instance type; empty for a type that the table lacks."""
    entry = INSTANCES.get(instance)
    if entry is None:
        return {}
    return {"CPU": float(entry.cpus), **({"GPU": float(entry.gpus)} if entry.gpus else {})}

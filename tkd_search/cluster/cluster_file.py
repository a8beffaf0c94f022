"""Reader of cluster files, the input of ``ray up`` and ``kubectl apply``.

Two kinds are read: Ray's autoscaler YAML (providers ``aws``, ``gcp``, ``local``) and Kubernetes manifests
that contain a ``RayCluster``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from tkd_search.cluster.instance_types import instance_resources
from tkd_search.cluster.kubernetes_quantity import parse_quantity
from tkd_search.errors import UserError

PLACEHOLDER = "CHANGE-ME"
_STORAGE_ANNOTATION = "tkd-search/storage"


@dataclass(frozen=True, kw_only=True)
class NodeType:
    """A kind of machine that a cluster file may launch.

    Attributes:
        name: name in the file.
        instance: the provider's instance type; '' for providers without instance types.
        resources: Ray resources of one such node, such as ``{"CPU": 4, "GPU": 1}``; empty if unknown.
        max_count: largest number of such nodes (1 for the head).
        spot: whether the provider may reclaim the machine at any time.
    """

    name: str
    instance: str
    resources: Mapping[str, float]
    max_count: int
    spot: bool


@dataclass(frozen=True, kw_only=True)
class ClusterFile:
    """The parts of a cluster file that tkd_search uses.

    Attributes:
        path: path of the file.
        name: name of the cluster.
        provider: ``aws``, ``gcp``, ``local`` or ``kuberay``.
        region: the provider's region; '' if the provider has none.
        head: node type of the head.
        workers: node types of the workers; for ``local`` one type, with ``metadata.host_resources``.
        max_workers: largest number of workers of all types together.
        storage: ``metadata.storage``, the place of data, bank and checkpoints.
        ssh_user, ssh_key, ssh_proxy_command: login on the head, the same that Ray uses.
        namespace: namespace of the Kubernetes objects; '' for kubectl's current one.
        placeholders: lines (number, text) that still contain ``CHANGE-ME``.
    """

    path: Path
    name: str
    provider: str
    region: str = ""
    head: NodeType
    workers: tuple[NodeType, ...] = ()
    max_workers: int = 0
    storage: str = ""
    ssh_user: str = ""
    ssh_key: Path | None = None
    ssh_proxy_command: str = ""
    namespace: str = ""
    placeholders: tuple[tuple[int, str], ...] = field(default=())

    def require_filled(self) -> None:
        """Raise an error if lines marked CHANGE still contain ``CHANGE-ME``.

        Raises:
            UserError: names the first such line.
        """
        if self.placeholders:
            number, text = self.placeholders[0]
            more = f" (and {len(self.placeholders) - 1} more)" if len(self.placeholders) > 1 else ""
            raise UserError(
                f"{self.path}:{number}",
                f"the placeholder {PLACEHOLDER}{more}: {text.strip()}",
                "your own value",
                f"change every line marked CHANGE in {self.path}",
            )


def read_cluster_file(path: Path) -> ClusterFile:
    """Read and check a cluster file.

    Raises:
        UserError: the file is missing, is not YAML, is of neither kind, or contains an amount that is not a
            number.
    """
    try:
        text = path.read_text(encoding="utf-8")
        documents = [d for d in yaml.safe_load_all(text) if d is not None]
    except OSError as error:
        raise UserError(
            "--cluster", f"{path}: {error.strerror}", "a cluster file such as clusters/aws.yaml"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(
            str(path), f"invalid YAML: {error}", "a cluster file such as clusters/aws.yaml"
        ) from error
    placeholders = tuple(
        (number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if PLACEHOLDER in line and not line.lstrip().startswith("#")
    )
    for document in documents:
        if isinstance(document, dict) and document.get("kind") == "RayCluster":
            return _from_kubernetes(path, document, placeholders)
    if (
        len(documents) == 1
        and isinstance(documents[0], dict)
        and isinstance(documents[0].get("provider"), dict)
    ):
        return _from_autoscaler(path, documents[0], placeholders)
    raise UserError(
        str(path), "neither a Ray cluster file nor a RayCluster", "a cluster file such as clusters/aws.yaml"
    )


def _from_autoscaler(
    path: Path, tree: Mapping[str, Any], placeholders: tuple[tuple[int, str], ...]
) -> ClusterFile:
    provider = tree["provider"]
    kind = str(provider.get("type", ""))
    auth = tree.get("auth") or {}
    types = tree.get("available_node_types") or {}
    head_name = str(tree.get("head_node_type", ""))
    hosts = provider.get("worker_ips") or []
    metadata = tree.get("metadata") or {}
    max_workers = _count(tree.get("max_workers", len(hosts)), f"{path}: max_workers")
    if types and head_name not in types:
        raise UserError(f"{path}: head_node_type", repr(head_name), f"one of {', '.join(types)}")
    if kind == "local":  # Ray's schema has no resources for hosts; metadata, which Ray ignores, holds them.
        entry = {"resources": metadata.get("host_resources") or {}}
        types, head_name = {"host": entry, "head": entry}, "head"
    where = f"{path}: available_node_types"
    key = auth.get("ssh_private_key")
    return ClusterFile(
        path=path,
        name=str(tree.get("cluster_name", "default")),
        provider=kind,
        region=str(provider.get("region", "")),
        head=_node_type(f"{where}.{head_name}", head_name, types.get(head_name) or {}, 1),
        workers=tuple(
            _node_type(
                f"{where}.{name}",
                name,
                entry,
                _count(entry.get("max_workers", max_workers), f"{where}.{name}.max_workers"),
            )
            for name, entry in types.items()
            if name != head_name
        ),
        max_workers=max_workers,
        storage=str(metadata.get("storage") or ""),
        ssh_user=str(auth.get("ssh_user", "")),
        ssh_key=Path(key).expanduser() if key else None,
        ssh_proxy_command=str(auth.get("ssh_proxy_command", "")),
        placeholders=placeholders,
    )


def _node_type(where: str, name: str, entry: Mapping[str, Any], max_count: int) -> NodeType:
    node = entry.get("node_config") or {}
    instance = str(node.get("InstanceType") or node.get("machineType") or "")
    spot = (node.get("InstanceMarketOptions") or {}).get("MarketType") == "spot" or (
        isinstance(node.get("scheduling"), dict) and node["scheduling"].get("provisioningModel") == "SPOT"
    )
    amounts = entry.get("resources") or {}
    resources = {str(key): _number(value, f"{where}.resources.{key}") for key, value in amounts.items()}
    return NodeType(
        name=name,
        instance=instance,
        resources=MappingProxyType({**instance_resources(instance), **resources}),
        max_count=max_count,
        spot=spot,
    )


def _from_kubernetes(
    path: Path, manifest: Mapping[str, Any], placeholders: tuple[tuple[int, str], ...]
) -> ClusterFile:
    meta, spec = manifest.get("metadata") or {}, manifest.get("spec") or {}
    groups, where = spec.get("workerGroupSpecs") or [], f"{path}: spec.workerGroupSpecs"
    workers = tuple(
        _group_type(
            f"{where}.{index}", str(group.get("groupName", "")), group,
            _count(group.get("maxReplicas", 2**31 - 1), f"{where}.{index}.maxReplicas"),
        )
        for index, group in enumerate(groups)
    )  # fmt: skip
    return ClusterFile(
        path=path,
        name=str(meta.get("name", "")),
        provider="kuberay",
        head=_group_type(f"{path}: spec.headGroupSpec", "head", spec.get("headGroupSpec") or {}, 1),
        workers=workers,
        max_workers=sum(w.max_count for w in workers),
        storage=str((meta.get("annotations") or {}).get(_STORAGE_ANNOTATION, "")),
        namespace=str(meta.get("namespace", "")),
        placeholders=placeholders,
    )


def _group_type(where: str, name: str, group: Mapping[str, Any], max_count: int) -> NodeType:
    pod = ((group.get("template") or {}).get("spec")) or {}
    container = (pod.get("containers") or [{}])[0]
    key = f"{where}.template.spec.containers.0.resources"
    amounts = {**_amounts(container, "requests", key), **_amounts(container, "limits", key)}
    resources = {"CPU": amounts.get("cpu", 0.0), "GPU": amounts.get("nvidia.com/gpu", 0.0)}
    start = group.get("rayStartParams") or {}
    for parameter, resource in (("num-cpus", "CPU"), ("num-gpus", "GPU")):
        if parameter in start:
            resources[resource] = _number(start[parameter], f"{where}.rayStartParams.{parameter}")
    selector = " ".join(f"{k}={v}" for k, v in (pod.get("nodeSelector") or {}).items())
    return NodeType(
        name=name,
        instance="",
        resources=MappingProxyType({k: v for k, v in resources.items() if v}),
        max_count=max_count,
        spot="spot" in selector,
    )


def _amounts(container: Mapping[str, Any], kind: str, where: str) -> dict[str, float]:
    entries = (container.get("resources") or {}).get(kind) or {}
    return {
        str(name): parse_quantity(str(amount), f"{where}.{kind}.{name}") for name, amount in entries.items()
    }


def _number(value: Any, where: str) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise UserError(where, repr(value), "a number") from error


def _count(value: Any, where: str) -> int:
    return int(_number(value, where))

"""Finds the groups of channels of a network with torch-pruning's dependency graph.

Fang et al., DepGraph: Towards Any Structural Pruning, CVPR 2023. The graph is traced on a copy; cutting,
sizes and records need neither the graph nor torch-pruning.
"""

import copy
import math
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tkd_search.distill.interfaces import logits_of
from tkd_search.errors import UserError, first_line
from tkd_search.models.cuts.attention import AttentionTensors, replace_attention
from tkd_search.models.cuts.channel_groups import ChannelGroup, Slice, UncuttableError
from tkd_search.models.cuts.channel_tensors import tensor_axes
from tkd_search.models.cuts.forward_pass import WRITERS, observe
from tkd_search.models.module_roles import eval_mode

Places = dict[int, int]
"""The channel of a group that each position belongs to."""


def find_groups(network: nn.Module, example: Tensor) -> tuple[ChannelGroup, ...]:
    """Return the groups of channels that can be removed, in the order of the network's layers.

    Args:
        network: images [B, C, H, W] → logits [B, c], on any device, "meta" included; not changed.
        example: images that it takes, B ≥ 2, on its device.

    The channels of the input and of the logits are in no group. Takes up to a few seconds.

    Raises:
        UserError: the channels of the network cannot be followed; it names the layer or operation.
    """
    try:
        trace = _Trace(network, example)
        order = {name: place for place, (name, _) in enumerate(network.named_modules())}
        found = [trace.group(node, order) for node in trace.roots()]
        whole = [group for group in found if group is not None]
        groups = [part for group in whole for part in _with_attention(group, trace.attentions)]
        if not groups:
            raise UncuttableError("no layer between the images and the logits")
    except UncuttableError as error:
        raise refused(error) from error
    return tuple(sorted(groups, key=lambda group: order[group.name]))


def refused(error: UncuttableError) -> UserError:
    """Return what a user reads of a network that cannot be cut."""
    return UserError(
        "student.name",
        f"cut, which the big model does not allow: {error}",
        "a big model whose channels can be followed from layer to layer",
        "choose another student.name, such as mobilenet_v2, or another big model",
    )


class _Trace:
    """torch-pruning's graph of a copy of the network, and walks through it."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        import torch_pruning

        self.copy = copy.deepcopy(network).requires_grad_(True)
        _refuse_shared(self.copy)
        self.attentions = replace_attention(self.copy)
        self.names = {module: name for name, module in self.copy.named_modules()}
        self.seen = observe(self.copy, example)
        self.graph = torch_pruning.DependencyGraph()
        try:
            with eval_mode(self.copy), torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self.graph.build_dependency(
                    self.copy, example, forward_fn=lambda net, images: logits_of(net(images)), verbose=False
                )
        except Exception as error:  # of any kind, on whatever torch-pruning does not know
            raise UncuttableError(self.why(f"torch-pruning fails: {first_line(error)}")) from error
        self.nodes = self.graph.module2node
        self.output = next(iter(self.nodes.values()))
        self.visited: set[Any] = set()

    def why(self, problem: str) -> str:
        """Return the problem after the first operation that moves axes, which is its usual cause."""
        return f"{self.seen.moves[0]}: {problem}" if self.seen.moves else problem

    def roots(self) -> Iterator[Any]:
        """Yield the layers that write channels which no group holds yet."""
        for module, node in list(self.nodes.items()):
            if isinstance(module, WRITERS) and module in self.names and node not in self.visited:
                yield node

    def group(self, root: Any, order: dict[str, int]) -> ChannelGroup | None:
        """Return the group of the channels that a layer writes; None where they reach the output.

        Raises:
            UncuttableError: the graph contradicts itself, or a layer of the group is not known.
        """
        found = self._walk(root)
        slices, layers, blocks = [], [], 1
        for (node, writes), places in found.items():
            if writes and isinstance(node.module, WRITERS):
                self.visited.add(node)
                layers.append(self.names[node.module])
            for tensor, axis, size, use, parts in tensor_axes(node, writes, self._name(node)):
                blocks = math.lcm(blocks, parts)
                slices.append(Slice(tensor, axis, self._roots(places, size, node), use))
        if any(node is self.output for node, writes in found if writes):
            return None
        channels = self.graph.get_out_channels(root)
        if channels % blocks:
            raise UncuttableError(f"{self.names[root.module]}: {channels} channels in {blocks} groups")
        layers.sort(key=order.__getitem__)
        side = min(self.seen.sides.get(name, 1) for name in layers)
        return ChannelGroup(layers[0], channels, tuple(slices), tuple(layers), blocks=blocks, side=side)

    def _walk(self, root: Any) -> dict[tuple[Any, bool], Places]:
        """Return where the channels of ``root`` lie in every node that they reach.

        Nodes are given with whether the channels are written there. Each position is followed once, so that
        the walk ends in every graph (torch-pruning's own does not).

        Raises:
            UncuttableError: a position belongs to two channels, which operations that move channels cause.
        """
        from torch_pruning._helpers import _HybridIndex

        graph = self.graph
        start = graph.get_pruner_of_module(root.module).prune_out_channels
        every = {place: place for place in range(graph.get_out_channels(root))}
        found: dict[tuple[Any, Any], Places] = {(root, start): every}
        waiting = [(root, start, every)]
        while waiting:
            node, function, fresh = waiting.pop()
            for edge in node.dependencies:
                if not edge.is_triggered_by(function):
                    continue
                moved: Iterable[Any] = [_HybridIndex(*pair) for pair in fresh.items()]
                for mapping in edge.index_mapping:
                    moved = moved if mapping is None else mapping(moved)
                known = found.setdefault((edge.target, edge.handler), {})
                new: Places = {}
                for place, channel in moved:
                    if place not in known:
                        known[place] = new[place] = channel
                    elif known[place] != channel:
                        name = self._name(edge.target) or self.names[root.module]
                        raise UncuttableError(self.why(f"channels of {name} are mixed"))
                if new:
                    waiting.append((edge.target, edge.handler, new))
        return {
            (node, bool(graph.is_out_channel_pruning_fn(function))): places
            for (node, function), places in found.items()
            if places
        }

    def _roots(self, places: Places, size: int, node: Any) -> Tensor:
        """Return the channel of every position of an axis, int64 [size]; -1 for none."""
        if max(places) >= size and not _has_groups(node.module):
            raise UncuttableError(self.why(f"{self._name(node)} would lose channels that it does not have"))
        roots = torch.full((size,), -1, dtype=torch.int64, device="cpu")
        # The weight of a convolution with groups holds the inputs of one; all keep the same positions.
        inside = [place for place in places if place < size]
        roots[inside] = torch.tensor([places[place] for place in inside], dtype=torch.int64, device="cpu")
        return roots

    def _name(self, node: Any) -> str:
        if isinstance(node.module, nn.Parameter):
            return self.graph._param_to_name[node.module]
        return self.names.get(node.module, "")


def _has_groups(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and 1 < module.groups < module.in_channels


def _with_attention(group: ChannelGroup, attentions: dict[str, AttentionTensors]) -> Iterator[ChannelGroup]:
    """Yield the group with the tensors of its attentions, then one group for the inside of each."""
    slices, inner = [], []
    heads = {attentions[owner].heads for one in group.slices if (owner := _owner(one)) in attentions}
    if len(heads) > 1:
        raise UncuttableError(f"{group.name}: attentions of {sorted(heads)} heads read the same channels")
    for one in group.slices:
        name = _owner(one)
        if name not in attentions:
            slices.append(one)
        elif one.tensor.endswith(".weight"):  # the stand-in has a weight and a bias
            tensors = attentions[name]
            slices += [Slice(f"{name}.{column}", 1, one.roots, "reads") for column in tensors.columns]
            slices += [Slice(f"{name}.{outer}", 0, one.roots, "writes") for outer in tensors.outer]
            inner.append(_inside(name, tensors, group))
    yield replace(group, slices=tuple(slices), heads=max(heads, default=0))
    yield from inner


def _inside(name: str, tensors: AttentionTensors, group: ChannelGroup) -> ChannelGroup:
    each = torch.arange(tensors.width)
    slices = [Slice(f"{name}.{row}", 0, each.repeat(3), "writes") for row in tensors.rows]
    slices.append(Slice(f"{name}.{tensors.inner}", 1, each, "reads"))
    return replace(
        group, name=name, channels=tensors.width, slices=tuple(slices), heads=tensors.heads, inner=True
    )


def _owner(one: Slice) -> str:
    return one.tensor.rpartition(".")[0]


def _refuse_shared(network: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        first = seen.setdefault(id(parameter), name)
        if first != name:
            raise UncuttableError(f"{first} and {name} are one tensor")

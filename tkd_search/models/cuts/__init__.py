"""Students cut from the big model F: its least important channels removed (structured pruning).

``cut`` makes one with F's weights, ``apply_cut`` rebuilds its architecture from the record of what was
removed, and ``check_cut`` refuses a network that cannot be cut.
"""

from tkd_search.models.cuts.channel_groups import ChannelGroup
from tkd_search.models.cuts.cut_network import Cut, check_cut, cut
from tkd_search.models.cuts.cut_record import apply_cut
from tkd_search.models.cuts.dependency_walk import find_groups

__all__ = [
    "ChannelGroup",
    "Cut",
    "apply_cut",
    "check_cut",
    "cut",
    "find_groups",
]

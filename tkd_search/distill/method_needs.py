"""Which signals of the big models a method reads."""

from dataclasses import dataclass

from tkd_search.distill.method_settings import MethodSettings

TERM_WEIGHTS = ("lam", "gamma", "beta", "local", "local_feature", "stage_feature", "relation")
"""Settings of a method whose larger values never read fewer signals."""


@dataclass(frozen=True)
class Needs:
    """Signals of the big models that a method reads."""

    logits: bool = False
    features: bool = False
    cells: bool = False

    @property
    def anything(self) -> bool:
        """Whether the method needs the big models or their bank."""
        return self.logits or self.features or self.cells


def needs_of(method: MethodSettings) -> Needs:
    """Return which signals of the big models a method reads under its settings."""
    s = method
    if s.name in ("ce", "kd", "dkd", "dist"):
        return Needs(logits=s.name != "ce" and s.lam > 0)
    if s.name in ("hint", "at", "sp"):
        return Needs(logits=True, features=s.name != "at", cells=s.name == "at")
    mixing = s.lam > 0 and s.gamma > 0
    cells = (mixing and s.local > 0) or s.local_feature > 0 or s.stage_feature > 0
    features = mixing or cells or s.beta > 0 or s.relation > 0
    return Needs(logits=s.lam > 0 or features, features=features, cells=cells)

"""A recording of learning curves: ``curves.csv.gz`` and ``meta.json`` beside it.

Columns: ``config_id``, one dotted key per searched leaf (empty where the leaf was inactive), ``bytes``,
``epoch`` (from 1) and ``val_accuracy`` in [0, 1]; one row per configuration and epoch. ``meta.json`` holds
the space, the epochs of a whole trial, the number of classes and the big model's bytes.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tkd_search.errors import UserError
from tkd_search.optimize.pareto import CostScale
from tkd_search.optimize.space import (
    Choice,
    Condition,
    Distribution,
    FloatDistribution,
    Space,
    parse_distribution,
)

FIXED_COLUMNS = ("config_id", "bytes", "epoch", "val_accuracy")


@dataclass(frozen=True, kw_only=True)
class Curves:
    """Whole learning curves of n configurations over E epochs.

    Attributes:
        space: the searched leaves.
        epochs: E, the full budget.
        classes: number of classes; chance is 1/classes.
        big_model_bytes: bytes of the big model.
        configs: flat configurations [n], active leaves only.
        bytes: size of each student [n].
        accuracy: validation accuracy [n, E] in [0, 1].
        meta: ``meta.json`` as read.
        left_out: configurations whose curve was not whole.
    """

    space: Space
    epochs: int
    classes: int
    big_model_bytes: float
    configs: tuple[Mapping[str, Any], ...]
    bytes: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    meta: Mapping[str, Any] = field(default_factory=dict)
    left_out: int = 0

    @property
    def scale(self) -> CostScale:
        """Return the scale of the students' bytes."""
        return CostScale(self.big_model_bytes)

    def __len__(self) -> int:
        return len(self.configs)


def load_curves(path: str | Path) -> Curves:
    """Read a recording.

    Args:
        path: ``curves.csv.gz`` (or ``.csv``), or the folder that holds it; ``meta.json`` lies beside.

    Raises:
        UserError: missing files, missing columns, or no whole curve.
    """
    table_path = _table_path(Path(path))
    meta = _read_meta(table_path.parent / "meta.json")
    table = pd.read_csv(table_path, dtype={"config_id": str}, keep_default_na=False, na_values=[""])
    missing = [column for column in FIXED_COLUMNS if column not in table.columns]
    if missing:
        raise UserError(str(table_path), f"no column {missing[0]!r}", ", ".join(FIXED_COLUMNS))
    leaves = [column for column in table.columns if column not in FIXED_COLUMNS]
    space = _space(meta.get("space"), table, leaves)
    return _whole_curves(table_path, table, meta, space)


def space_to_json(space: Space) -> dict[str, Any]:
    """The space as plain JSON, in the forms that a configuration file uses."""
    return {
        "leaves": {leaf: _distribution_to_json(space.leaves[leaf]) for leaf in space.order},
        "conditions": [
            {"leaf": c.leaf, "parent": c.parent, "values": list(c.values)} for c in space.conditions
        ],
    }


def space_from_json(written: Mapping[str, Any]) -> Space:
    """The space of a ``meta.json``: ``{leaves, conditions}`` or the bare leaves.

    Raises:
        ValueError: a leaf is not a distribution.
    """
    leaves: dict[str, Distribution] = {}
    for leaf, value in written.get("leaves", written).items():
        distribution = parse_distribution(value)
        if distribution is None:
            raise ValueError(f"{leaf}: {value!r} is not a distribution")
        leaves[leaf] = distribution
    conditions = written.get("conditions", []) if "leaves" in written else []
    return Space(leaves, tuple(Condition(c["leaf"], c["parent"], tuple(c["values"])) for c in conditions))


def _table_path(path: Path) -> Path:
    candidates = [path] if path.is_file() else [path / "curves.csv.gz", path / "curves.csv"]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise UserError(
        str(path),
        "no recording",
        "curves.csv.gz with meta.json beside it, or their folder",
        "record one: python -m benchmarks.record_curves",
    )


def _read_meta(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise UserError(str(path), "no such file", "meta.json: space, epochs, classes, big_model_bytes")
    meta: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return meta


def _space(written: Any, table: pd.DataFrame, leaves: Sequence[str]) -> Space:
    """The recorded space, of the recorded columns alone; guessed from them where none is given."""
    if isinstance(written, Mapping) and written:
        space = space_from_json(written)
        kept = {leaf: d for leaf, d in space.leaves.items() if leaf in leaves}
        return Space(kept, tuple(c for c in space.conditions if c.leaf in kept and c.parent in kept))
    return Space({leaf: _guess(table[leaf].dropna()) for leaf in leaves})


def _guess(column: "pd.Series[Any]") -> Distribution:
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        return Choice(tuple(sorted(column.unique().tolist(), key=str)))
    low, high = float(column.min()), float(column.max())
    return FloatDistribution(low, high, log=low > 0 and high / low > 20)


def _whole_curves(where: Path, table: pd.DataFrame, meta: Mapping[str, Any], space: Space) -> Curves:
    epochs = sorted(int(epoch) for epoch in table["epoch"].unique() if epoch > 0)
    budget = int(_first(meta, ("epochs", "full_budget"), epochs[-1] if epochs else 0))
    pivot = table[table["epoch"].between(1, budget)].pivot_table(
        index="config_id", columns="epoch", values="val_accuracy", aggfunc="last", sort=False
    )
    whole = pivot.dropna() if pivot.shape[1] == budget else pivot.iloc[:0]
    if len(whole) == 0:
        raise UserError(str(where), f"no curve of {budget} epochs", "at least one whole curve")
    heads = table.drop_duplicates("config_id").set_index("config_id").loc[whole.index]
    accuracy = whole[sorted(whole.columns)].to_numpy(dtype=np.float64)
    return Curves(
        space=space,
        epochs=budget,
        classes=int(_first(meta, ("classes", "num_classes"), 10)),
        big_model_bytes=float(_big_model_bytes(where, meta)),
        configs=tuple(_config(row, space) for row in heads.to_dict("records")),
        bytes=heads["bytes"].to_numpy(dtype=np.float64),
        accuracy=accuracy / 100 if accuracy.max() > 1.5 else accuracy,
        meta=meta,
        left_out=table["config_id"].nunique() - len(whole),
    )


def _first(meta: Mapping[str, Any], keys: Sequence[str], default: Any) -> Any:
    return next((meta[key] for key in keys if key in meta), default)


def _big_model_bytes(where: Path, meta: Mapping[str, Any]) -> Any:
    big = meta.get("big_model")
    nested = big.get("bytes") if isinstance(big, Mapping) else None
    found = _first(meta, ("big_model_bytes", "big-model bytes", "big_bytes", "F_bytes"), nested)
    if found is None:
        raise UserError(str(where.parent / "meta.json"), "no big_model_bytes", "bytes of the big model")
    return found


def _config(row: Mapping[Any, Any], space: Space) -> dict[str, Any]:
    """The active leaves of a row, each in the type of its distribution."""
    config: dict[str, Any] = {}
    for leaf in space.order:
        value = row[leaf]
        present = value is not None and not (isinstance(value, float) and math.isnan(value))
        if present and space.active(leaf, config):
            config[leaf] = _typed(space.leaves[leaf], value)
    return config


def _typed(distribution: Distribution, value: Any) -> Any:
    if isinstance(distribution, Choice):
        return next((o for o in distribution.options if o == value or str(o) == str(value)), value)
    number = float(value)
    return number if isinstance(distribution, FloatDistribution) else round(number)


def _distribution_to_json(distribution: Distribution) -> dict[str, Any]:
    if isinstance(distribution, Choice):
        return {"choice": list(distribution.options)}
    kind = "float" if isinstance(distribution, FloatDistribution) else "int"
    body: dict[str, Any] = {kind: [distribution.low, distribution.high]}
    return {**body, "log": True} if distribution.log else body

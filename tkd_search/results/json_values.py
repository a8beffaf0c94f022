"""Records to plain JSON values and back, so that what is on disk needs no pickle."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def to_plain(record: Any) -> Any:
    """A record as dictionaries, lists and scalars; tuples become lists, keys become strings."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: to_plain(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {str(key): to_plain(value) for key, value in record.items()}
    if isinstance(record, list | tuple):
        return [to_plain(value) for value in record]
    if isinstance(record, str | int | float | bool) or record is None:
        return record
    return record.item() if hasattr(record, "item") else str(record)


def finite(plain: Any) -> Any:
    """Plain values with null for every number that strict JSON cannot hold (NaN, infinities)."""
    if isinstance(plain, dict):
        return {key: finite(value) for key, value in plain.items()}
    if isinstance(plain, list):
        return [finite(value) for value in plain]
    return None if isinstance(plain, float) and not math.isfinite(plain) else plain


def from_plain(kind: type[T], plain: Any) -> T:
    """The inverse of :func:`to_plain` for the frozen dataclasses of ``tkd_search.results.records``.

    Keys that ``kind`` does not know are ignored, so that an older version reads newer files; a missing
    key without default raises TypeError.
    """
    return typing.cast(T, _decode(kind, plain))


def _decode(kind: Any, plain: Any) -> Any:
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        known = {field.name for field in dataclasses.fields(kind)}
        build = typing.cast(Any, kind)
        return build(**{key: _decode(hints[key], value) for key, value in plain.items() if key in known})
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin is tuple:
        inner = args[:1] * len(plain) if len(args) == 2 and args[1] is Ellipsis else args
        return tuple(_decode(one, value) for one, value in zip(inner, plain, strict=True))
    if origin is dict:
        return {args[0](key): _decode(args[1], value) for key, value in plain.items()}
    if origin in (types.UnionType, typing.Union) and plain is not None:
        return _decode(next(one for one in args if one is not type(None)), plain)
    if kind is float and isinstance(plain, int):
        return float(plain)
    return plain

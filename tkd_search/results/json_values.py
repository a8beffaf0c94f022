"""Records as plain JSON values and back, so that no file needs pickle."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

T = TypeVar("T")


def _scalar(value: Any) -> Any:
    """Return the Python value of a NumPy or torch scalar, the text of anything else."""
    return value.item() if hasattr(value, "item") else str(value)


to_plain = partial(to_jsonable_python, fallback=_scalar)
"""Return a record as dictionaries, lists and scalars; tuples become lists, keys become strings."""

finite = partial(to_jsonable_python, inf_nan_mode="null")
"""Return plain values with null for every number that strict JSON lacks (NaN, infinities)."""


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def from_plain(kind: type[T], plain: Any, *, strict: bool = False) -> T:
    """Return the dataclass ``kind`` from what :func:`to_plain` made of it.

    Ignores keys that ``kind`` does not have, so that an older version reads newer files. ``strict`` refuses
    what must be converted, such as the text of a number.

    Raises:
        ValueError: a key without default is missing, or a value has the wrong type; names the key.
    """
    try:
        record: T = _adapter(kind).validate_python(plain, strict=strict)
        return record
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or kind.__name__
        raise ValueError(f"{where}: {first['msg']}") from error

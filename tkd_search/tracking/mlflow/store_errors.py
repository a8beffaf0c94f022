"""Turns a tracking store's exception into one short reason."""

from collections.abc import Iterator
from http.client import HTTPException

from tkd_search.masking import masked


def reason(error: BaseException) -> str:
    """Return the reason in few words, secrets masked.

    That of a lost connection is the operating system's message: HTTP libraries wrap it in several exceptions,
    each with the whole request in its text.
    """
    for layer in _layers(error):
        if isinstance(layer, ConnectionError | TimeoutError) and layer.args:
            return f"it does not answer ({layer.strerror or layer})"
        if isinstance(layer, HTTPException):  # the connection ended within an answer
            return f"it does not answer ({layer})"
    return masked(" ".join(str(error).split())) or type(error).__name__


def _layers(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, its causes, and exceptions among its arguments."""
    waiting, seen = [error], set()
    while waiting:
        layer = waiting.pop(0)
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            linked = (layer.__cause__, layer.__context__, getattr(layer, "reason", None), *layer.args)
            waiting += [one for one in linked if isinstance(one, BaseException)]

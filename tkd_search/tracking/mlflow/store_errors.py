"""Why a tracking store did not do what it was asked for."""

from collections.abc import Iterator


def reason(error: BaseException) -> str:
    """In few words; of a lost connection what the system said.

    HTTP libraries wrap that in layers of their own, each with the whole request in its message.
    """
    for layer in _layers(error):
        if isinstance(layer, ConnectionError | TimeoutError) and layer.args:
            return f"it does not answer ({layer.strerror or layer})"
    return " ".join(str(error).split()) or type(error).__name__


def _layers(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that it was raised from, or that it carries as ``reason`` or argument."""
    waiting, seen = [error], set()
    while waiting:
        layer = waiting.pop(0)
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
            linked = (layer.__cause__, layer.__context__, getattr(layer, "reason", None), *layer.args)
            waiting += [one for one in linked if isinstance(one, BaseException)]

"""Why a tracking store did not do what it was asked for."""


def reason(error: BaseException) -> str:
    """Why a store did not take something, in few words: of a lost connection what the system said.

    HTTP libraries wrap that in layers of their own, each with the whole request in its message.
    """
    layer: BaseException | None = error
    while layer is not None:
        if isinstance(layer, ConnectionError | TimeoutError) and layer.args:
            return f"it does not answer ({layer.strerror or layer})"
        layer = layer.__cause__ or layer.__context__
    return " ".join(str(error).split()) or type(error).__name__

"""The number formats a student ships in."""

from typing import Literal, get_args

Format = Literal["fp32", "fp16", "int8", "int4"]
FORMATS: tuple[Format, ...] = get_args(Format)


def rounds_weights(format: Format) -> bool:
    """Return whether weights of the format are integers times a scale."""
    return format in ("int8", "int4")


def rounds_inputs(format: Format) -> bool:
    """Return whether the format rounds the inputs of layers too."""
    return format == "int8"

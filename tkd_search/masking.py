"""Removes secrets from texts on their way to a log, an artifact, the tracking store or the terminal."""

import logging
import re
from typing import Any

_LOGIN = re.compile(r"(?<=://)(?:[^\s/?#@:]*:(?!\d+(?:[/?#\s]|$))\S*|[^\s/?#]*)@")
"""User name and password of a URI, up to the last '@': both may hold '@', a password also '/'. Digits and '/'
after the colon are a port."""
_WORDS = "password|passwd|secret|token|signature|credential|api_?key|access_?key"
_NAMED = re.compile(
    rf"""(?i)(\b(?:[\w.-]*(?:{_WORDS})|pwd|sig)(?:=|["']\s*:\s*["']))[^\s&;,"'}}#]+""",
)
"""The value of a parameter, variable or JSON key whose name says that it is a secret."""
_HEADER = re.compile(r"(?i)\b(Basic|Bearer)\s+[\w+/.~=-]{6,}")


def masked(text: str) -> str:
    """Return a text without the secrets in it.

    User names and passwords are removed from URIs, so that the rest names the same place. Values of
    parameters and variables named as secrets, and of Authorization headers, become ``***``.
    """
    without_login = _LOGIN.sub("", text)
    return _HEADER.sub(r"\1 ***", _NAMED.sub(r"\1***", without_login))


def masked_values(value: Any) -> Any:
    """Return plain JSON values with every text masked."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {key: masked_values(inner) for key, inner in value.items()}
    return [masked_values(inner) for inner in value] if isinstance(value, list | tuple) else value


class MaskingFormatter(logging.Formatter):
    """Formatter of log records, tracebacks included, that masks secrets."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the masked line."""
        return masked(super().format(record))

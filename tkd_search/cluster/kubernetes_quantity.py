"""Parser for Kubernetes quantities such as ``500m`` and ``2Gi``."""

import re

from tkd_search.errors import UserError

# https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/quantity/
_DECIMAL_EXPONENTS = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY_EXPONENTS = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50, "Ei": 60}
_QUANTITY = re.compile(
    r"\+?(?P<number>[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE](?P<exponent>[+-]?[0-9]+)|(?P<suffix>[A-Za-z]*))"
)


def parse_quantity(text: str, where: str) -> float:
    """Return the number that a Kubernetes quantity states: ``"500m"`` → 0.5, ``"2Gi"`` → 2147483648.

    Args:
        text: a number ≥ 0 with a suffix (``n u m k M G T P E``, ``Ki Mi Gi Ti Pi Ei``) or an exponent
            (``1e3``).
        where: file and key, for the error message.

    Raises:
        UserError: the text is not such a quantity.
    """
    match = _QUANTITY.fullmatch(text)
    if match is not None:
        number, suffix = match["number"], match["suffix"] or ""
        if suffix in _BINARY_EXPONENTS:
            return float(number) * 2.0 ** _BINARY_EXPONENTS[suffix]
        if suffix in _DECIMAL_EXPONENTS:
            return float(f"{number}e{match['exponent'] or _DECIMAL_EXPONENTS[suffix]}")
    raise UserError(
        where,
        f"{text!r}, which is not a Kubernetes quantity",
        "a number ≥ 0, alone, with an exponent (1e3) or with one of the suffixes "
        + " ".join([*filter(None, _DECIMAL_EXPONENTS), *_BINARY_EXPONENTS]),
    )

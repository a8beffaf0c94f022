"""Settings of a trial as JSON text, the form in which jobs carry them to workers."""

import dataclasses
import json

from pydantic import TypeAdapter

from tkd_search.config.sections import TrialSettings

_FIELDS = {field.name for field in dataclasses.fields(TrialSettings)}
_ADAPTER = TypeAdapter(TrialSettings)


def to_json(settings: TrialSettings) -> str:
    """Return the settings as JSON; of a whole experiment, the part that a worker needs."""
    values = dataclasses.asdict(settings)
    return json.dumps({name: value for name, value in values.items() if name in _FIELDS})


def from_json(text: str) -> TrialSettings:
    """Return the settings that :func:`to_json` wrote.

    Raises:
        pydantic.ValidationError: the text does not hold such settings.
    """
    return _ADAPTER.validate_json(text)

"""Invented experiment files: each is a configuration or a readable error, never a traceback."""

import dataclasses
import math
import os
import random
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tkd_search.config.experiment_file import Config, load_config, parse_config
from tkd_search.config.sections import SECTIONS
from tkd_search.config.tree import flatten
from tkd_search.config.yaml_text import parse_yaml, yaml_text
from tkd_search.errors import UserError

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]
MANY = settings(
    max_examples=1000 if os.environ.get("TKD_CI_ALL") else 250,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)

DEFAULTS = {
    f"{section}.{field.name}": field for section, cls in SECTIONS.items() for field in dataclasses.fields(cls)
}
SHIPPED = [load_config(name) for name in ("digits", "imagefolder", "cifar10", "mnist")]
USED = sorted({repr(leaf): leaf for config in SHIPPED for leaf in flatten(config.tree).values()}.items())
"""Values that stand somewhere in the shipped files, so that values of the right kind reach wrong keys."""

numbers = st.sampled_from([0, 1, -1, 2, 3, 0.5, 1e-9, 1e9, 10**30, float("inf"), float("nan"), True, None])
texts = st.sampled_from(
    ["", "none", "auto", "kd", "tkd", "cut", "alexnet", "resnet18", "int4", "~/x", "a.b:c", "\0", "é", "1e-3"]
)
plain = numbers | texts | st.text(max_size=5) | st.sampled_from([value for _, value in USED])
lists = st.lists(plain, max_size=4)
distributions = st.fixed_dictionaries(
    {}, optional={"float": lists, "int": lists, "choice": lists, "log": plain, "step": plain}
)
values = st.recursive(
    plain | lists | distributions,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | numbers, inner, max_size=3)
    ),
    max_leaves=5,
)
keys = st.sampled_from(sorted(DEFAULTS)) | st.text("abk._0-", max_size=12)


@st.composite
def legal_changes(draw):
    """Return a key and a value, or a distribution, of the type and within the bounds that it declares."""
    key = draw(st.sampled_from(sorted(DEFAULTS)))
    field = DEFAULTS[key]
    hint = get_type_hints(SECTIONS[key.partition(".")[0]])[field.name]
    bounds = field.metadata
    low = bounds.get("ge", bounds.get("gt", 0) + 1e-3)
    high = bounds.get("le", bounds.get("lt", low + 10) - 1e-3)
    used = [leaf for config in SHIPPED if (leaf := flatten(config.tree).get(key)) is not None]
    if get_origin(hint) is Literal:
        options = list(get_args(hint))
        return key, draw(st.sampled_from([*options, {"choice": options}]))
    if hint is float:
        value = draw(st.floats(low, high))
        return key, draw(st.sampled_from([value, {"float": [low, high]}, {"choice": [value, high]}]))
    if hint is int:
        value = draw(st.integers(math.ceil(low), math.ceil(low) + 5))
        return key, draw(st.sampled_from([value, {"int": [value, value + 2]}]))
    return key, draw(st.sampled_from(used) if used else plain)


mostly_legal = st.tuples(
    st.lists(legal_changes(), max_size=3), st.lists(st.tuples(keys, values), max_size=1)
).map(lambda parts: [*parts[0], *parts[1]])


def check(config: Config) -> None:
    """A configuration that was accepted can be written, read, and resolved at points of its space."""
    assert parse_config(parse_yaml(config.to_yaml())).digest() == config.digest()
    draw = random.Random(0)
    for _ in range(2):
        point = {key: sample(leaf, draw) for key, leaf in config.space.leaves.items()}
        config.settings(point)
        config.fixed(point)


def sample(leaf, draw):
    """Return an end or an option of a distribution."""
    options = getattr(leaf, "options", None)
    return draw.choice(options) if options else draw.choice((leaf.low, leaf.high))


@MANY
@given(st.sampled_from(SHIPPED), mostly_legal)
def test_a_changed_file_is_accepted_or_refused(base, changes):
    tree = parse_yaml(base.to_yaml())
    for key, value in changes:
        section, _, name = key.partition(".")
        if isinstance(tree.get(section), dict) and name:
            tree[section][name] = value
        else:
            tree[key] = value
    try:
        config = parse_config(tree)
    except UserError:
        return
    check(config)


@MANY
@given(mostly_legal)
def test_overrides_are_accepted_or_refused(changes):
    texts_of = [
        f"{key}={value if isinstance(value, str) else yaml_text(value).strip()}" for key, value in changes
    ]
    try:
        config = load_config(None, texts_of)
    except UserError:
        return
    check(config)

"""What YAML and shells do to settings: repeated keys, 1:30, 1e-4, ``~``, pixels of 0 to 255 (10, 13, 17)."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.cli.calling import call
from tkd_search import Experiment
from tkd_search.api import finished_record
from tkd_search.config.experiment_file import load_config, stored_config
from tkd_search.config.yaml_text import parse_yaml, yaml_text
from tkd_search.errors import UserError
from tkd_search.optimize.space import Choice, FloatDistribution


def read(tmp_path, text):
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    return load_config(tmp_path / "mine.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "search: {trials: 3}\ntraining: {epochs: 2}\nsearch: {trials: 4}\n",
        "search:\n  trials: 3\n  max_hours: 1\n  trials: 4\n",
        "student: {args: {a: 1, 'a': 2}}\n",
        "search: {enqueue: [{method.k: 1, method.k: 2}]}\n",
    ],
)
def test_a_repeated_key_is_refused_with_its_line(tmp_path, text):
    with pytest.raises(UserError, match=r"(?s)mine\.yaml.*twice in one section.*line \d"):
        read(tmp_path, text)


def test_a_merged_section_may_itself_replace_keys_that_it_merges():
    text = "x: {y: {base: &b {a: 1, c: 2}, mid: &m {<<: *b, a: 3}}}\ntop: {<<: *m, d: 4}\n"
    assert parse_yaml(text)["top"] == {"a": 3, "c": 2, "d": 4}


def test_a_repeated_key_is_refused_in_an_override_too():
    with pytest.raises(UserError, match="--set search"):
        load_config(None, ["search={trials: 3, trials: 4}"])


def test_base_sixty_is_refused_in_a_file_and_in_an_override(tmp_path):
    with pytest.raises(UserError, match=r"search\.max_hours: found '1:30'"):
        read(tmp_path, "search: {max_hours: 1:30}\n")
    with pytest.raises(UserError, match=r"search\.max_hours: found '1:30'"):
        load_config(None, ["search.max_hours=1:30"])


def test_numbers_in_scientific_notation_are_numbers_everywhere(tmp_path):
    config = read(
        tmp_path,
        "training: {lr: {float: [1e-4, 1e-2], log: true}}\n"
        "student: {args: {dropout: 1e-1, b: {choice: [1e-2, 2E3]}}}\n"
        "search: {enqueue: [{training.lr: 1e-3}], pruner_args: {x: 5e-1}}\n",
    )
    assert config.space.leaves["training.lr"] == FloatDistribution(1e-4, 1e-2, True)
    assert config.space.leaves["student.args.b"] == Choice((0.01, 2000.0))
    assert config.tree["student"]["args"]["dropout"] == 0.1
    assert config.tree["search"]["pruner_args"] == {"x": 0.5}
    assert config.enqueued() == ({"training.lr": 1e-3},)


texts = st.text(st.characters(min_codepoint=32, max_codepoint=126))


# huggingface/huggingface_hub#797, tomasz-c/nft-blackhole#4: YAML reads no as false
@pytest.mark.parametrize(
    "text", ["data: {label_column: no}\n", "data: {path: 123}\n", "name: no\n", "name: 7\n"]
)
def test_a_text_that_yaml_reads_as_something_else_is_refused_with_a_hint(tmp_path, text):
    with pytest.raises(UserError, match="write a text in quotes"):
        read(tmp_path, text)


# Editors of Windows: another encoding, tabs, and backslashes between double quotes.
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("data: &d {name: digits, more: *d}", "an alias within what it names"),
        ("student: &s\n  args: {sizes: [1, *s]}", "an alias within what it names"),
        (
            "\n".join(
                ["a0: &a0 [1, 2]", *(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9))]
            ),
            "aliases that repeat too much",
        ),
    ],
)
def test_aliases_without_end_are_refused(tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        read(tmp_path, text)


def test_an_alias_stands_for_what_it_names(tmp_path):
    config = read(tmp_path, "method: {lam: &range {float: [0.1, 0.9]}, gamma: *range}")
    assert config.space.leaves["method.lam"] == config.space.leaves["method.gamma"]


@pytest.mark.parametrize(
    "content",
    [
        "search: {trials: 3}".encode("utf-16"),
        "# café".encode("latin-1"),
        b"search:\n\ttrials: 3\n",
        b"search: [1\n",
        b'data: {path: "C:\\Users\\me"}\n',
    ],
)
def test_text_that_is_not_yaml_is_refused_with_a_hint(tmp_path, content):
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(UserError, match=r"(?s)not YAML.*save it as UTF-8, indent with spaces"):
        load_config(tmp_path / "mine.yaml")


def test_a_file_with_a_byte_order_mark_and_line_ends_of_windows_is_read(tmp_path):
    (tmp_path / "mine.yaml").write_bytes(b"\xef\xbb\xbfsearch:\r\n  trials: 3\r\n")
    assert load_config(tmp_path / "mine.yaml").settings().search.trials == 3


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


@given(values)
def test_what_is_written_is_read_back(value):
    assert parse_yaml(yaml_text(value)) == value


@given(st.from_regex(r"[-+]?[0-9._:eEx]{1,8}", fullmatch=True))
def test_a_text_that_looks_like_a_number_stays_a_text(text):
    assert parse_yaml(yaml_text({"a": text})) == {"a": text}


@pytest.mark.parametrize("text", ["0x1f", "0o17", "-3", "010", "1_000", "1.", ".5", "-.inf", "+1E-5"])
def test_numbers_of_yaml_1_2_are_read(text):
    assert isinstance(parse_yaml(text), int | float)


def test_a_home_folder_is_expanded_in_every_setting_and_option(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    config = read(
        tmp_path,
        "output: ~/x\nstorage: ~/s\ndata: {path: ~/d}\nbig_model: {weights: ~/w.pt}\n"
        "search: {warm_start: [~/old/study.journal]}\n",
    )
    settings = config.settings()
    assert config.folder == tmp_path / "x" / "mine"
    assert config.tree["storage"] == f"{tmp_path}/s"
    assert settings.data.path == f"{tmp_path}/d"
    assert settings.big_models[0].weights == f"{tmp_path}/w.pt"
    assert settings.search.warm_start == (f"{tmp_path}/old/study.journal",)
    assert load_config(None, ["output=~/x"]).folder == tmp_path / "x" / "digits"
    assert load_config("~/mine.yaml") == config
    assert Experiment.from_yaml("~/mine.yaml", output="~/y").config.folder.parent == tmp_path / "y"
    assert f"no searches in {tmp_path}/none" in call("runs", "list", "--output=~/none").out
    assert not Path("~").exists()


@pytest.mark.parametrize(
    ("mean", "std"),
    [([123.7, 116.3, 103.5], [58.4, 57.1, 57.4]), ([0.5], [51.0]), ([-0.1], [0.5]), ([0.5], [0.0])],
)
def test_statistics_of_0_to_255_are_refused(mean, std):
    with pytest.raises(UserError, match=r"data\.(mean|std)(?s:.*)divide values of 0 to 255 by 255"):
        load_config(None, [f"data.mean={mean}", f"data.std={std}"])


@pytest.mark.parametrize(
    "content", [b"", b"# nothing\n", b"a: [1\n", b"- 1\n", b"\xff\xfe\x00", b"search: 3\n"]
)
def test_a_damaged_configuration_of_a_run_is_one_line_that_says_what_to_do(tmp_path, monkeypatch, content):
    monkeypatch.chdir(tmp_path)
    config = load_config(None)
    config.folder.mkdir(parents=True)
    (config.folder / "config.yaml").write_bytes(content)
    with pytest.raises(UserError) as caught:
        finished_record(config)
    assert "config.yaml" in str(caught.value)
    assert "choose another --name" in str(caught.value)
    with pytest.raises(UserError):
        stored_config(config.folder)

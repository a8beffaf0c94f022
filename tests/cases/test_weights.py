"""Checkpoints as training scripts write them (case 11: lightning#2617, OpenTAD#44, mdistiller#20)."""

import argparse
import collections
import contextlib
import logging
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from tests.models import nets
from tkd_search.errors import UserError
from tkd_search.models.size import shipping_state
from tkd_search.models.weights import load_weights

STATE = nets.DropoutHead().state_dict()
OTHER = nets.tiny(3).state_dict()


def below(prefix, state=STATE):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


class Options(dict):
    """A dictionary of a library that is not installed where the weights are used."""


CHECKPOINTS = {
    "argparse and numpy": {
        "state_dict": STATE,
        "args": argparse.Namespace(lr=0.1, path=Path("/x")),
        "best": np.float64(0.5),
        "history": [np.arange(3), {"acc": np.float32(1)}],
    },
    "options of a library": {"model": STATE, "cfg": Options(a=1), "d": collections.defaultdict(list, a=[1])},
    "averaged alone": {"state_dict_ema": below("module."), "n_averaged": torch.tensor(3)},
    "averaged and plain": {"model": nets.DropoutHead().state_dict(), "model_ema": STATE},
    "swa": {"n_averaged": torch.tensor(3), **below("module.")},
    "lightning": {
        "state_dict": {**below("model."), "criterion.weight": torch.ones(5)},
        "hyper_parameters": {"lr": 0.1},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
    },
    "backbone": below("backbone."),
    "distiller": {"model": {**below("module.student."), **below("module.teacher.", OTHER)}},
    "deepspeed": {"module": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "epoch": 3},
    "an unknown key": {"epoch": 3, "weights_of_epoch": {"student": STATE}},
    "scalars beside": {**STATE, "epoch": 3, "name": "x"},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_the_tensors_of_a_checkpoint_are_found(tmp_path, kind, legacy):
    path, net = tmp_path / "model.pth", nets.DropoutHead()
    torch.save(CHECKPOINTS[kind], path, _use_new_zipfile_serialization=not legacy)
    load_weights(net, path)
    assert save(shipping_state(net)) == save(dict(STATE))


def test_what_is_ignored_is_said(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        for kind in ("argparse and numpy", "lightning"):
            torch.save(CHECKPOINTS[kind], tmp_path / "model.pth")
            load_weights(nets.DropoutHead(), tmp_path / "model.pth")
    assert "argparse.Namespace" in caplog.text
    assert "1 tensor(s) that belong to no part of the network are ignored" in caplog.text


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ({**STATE, "surprise": torch.ones(1)}, "unknown 1 tensor(s): surprise"),
        ({**below("student."), **below("teacher.")}, "student."),
        (below("model.", OTHER), "lacks"),
    ],
)
def test_what_may_be_another_network_is_refused_by_name(tmp_path, state, words):
    torch.save({"state_dict": state}, tmp_path / "model.pth")
    with pytest.raises(UserError) as caught:
        load_weights(nets.DropoutHead(), tmp_path / "model.pth")
    assert words in caught.value.found


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, how, *arguments):
        self.how, self.arguments = how, arguments

    def __reduce__(self):
        return self.how, self.arguments


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("how", [os.system, eval, exec, open, os.mkdir, pickle.loads])
def test_no_code_runs_wherever_it_stands(tmp_path, how, protocol):
    witness = tmp_path / "witness"
    arguments = {
        os.system: (f"touch {witness}",),
        open: (str(witness), "w"),
        os.mkdir: (str(witness),),
        pickle.loads: (pickle.dumps(Runs(os.mkdir, str(witness))),),
    }.get(how, (f"__import__('os').mkdir({str(witness)!r})",))
    bad = Runs(how, *arguments)
    for content in ({"state_dict": STATE, "x": bad}, {"0.weight": bad}, [bad], bad):
        torch.save(content, tmp_path / "model.pth", pickle_protocol=protocol)
        with contextlib.suppress(UserError):
            load_weights(nets.DropoutHead(), tmp_path / "model.pth")
        assert not witness.exists()


# pytorch/pytorch#32691, pytorch/ao#456: int8 weights were copied as floats, without their scales
@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda one: (one * 100).to(torch.int8), "int8"),
        (lambda one: one.to(torch.float8_e4m3fn), "float8_e4m3fn"),
        (lambda one: one.to(torch.complex64), "complex64"),
        (lambda one: one.to_sparse(), "sparse_coo"),
        (lambda one: one.to("meta"), "meta"),
    ],
)
def test_weights_that_are_no_plain_floats_are_refused(tmp_path, change, kind):
    state = {name: change(one) if one.dim() else one for name, one in STATE.items()}
    torch.save(state, tmp_path / "packed.pth")
    with pytest.raises(UserError, match=rf"(?s)big_model\.weights.*{kind}.*before it was quantised"):
        load_weights(nets.DropoutHead(), tmp_path / "packed.pth", where="big_model.weights")


# ultralytics/ultralytics#6508: half precision is read as it is
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(tmp_path, kind):
    state = {name: one.to(kind) if one.is_floating_point() else one for name, one in STATE.items()}
    torch.save(state, tmp_path / "half.pth")
    net = nets.DropoutHead()
    load_weights(net, tmp_path / "half.pth")
    for name, one in net.state_dict().items():
        assert one.dtype == STATE[name].dtype
        assert torch.allclose(one, STATE[name], atol=0.01)


@pytest.mark.parametrize("name", ["model.pth", "model.safetensors", "MODEL.SAFETENSORS", "model.bin"])
@pytest.mark.parametrize("safe", [False, True])
def test_the_content_decides_the_format_not_the_suffix(tmp_path, name, safe):
    torch.save(STATE, tmp_path / name)
    if safe:
        (tmp_path / name).write_bytes(save(dict(STATE), metadata={"format": "pt"}))
    load_weights(nets.DropoutHead(), tmp_path / name)


# huggingface/transformers#27923, microsoft/OmniParser#34: 'header too large' is a pointer of Git LFS
@pytest.mark.parametrize("name", ["model.pth", "model.safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 12\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html>", "web page"),
        (b"", "an empty file"),
    ],
)
def test_a_file_that_holds_no_weights_is_called_what_it_is(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=words):
        load_weights(nets.DropoutHead(), tmp_path / name)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_of_a_training_that_diverged_are_refused(tmp_path, value):
    state = {name: tensor.clone() for name, tensor in STATE.items()}
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    state[name].view(-1)[0] = value
    torch.save(state, tmp_path / "diverged.pth")
    with pytest.raises(UserError, match=rf"big_model\.weights.*not finite in {name}"):
        load_weights(nets.DropoutHead(), tmp_path / "diverged.pth", where="big_model.weights")

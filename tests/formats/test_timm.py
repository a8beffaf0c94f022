"""timm's networks ship: bytes as predicted, the file and its ONNX compute what the student computes."""

import copy

import pytest
import torch
from safetensors.torch import load_file

from tests.formats.nets import disturbed, images, simulated
from tests.formats.test_onnx import runtime
from tkd_search.formats import save, shipped_bytes, unpack
from tkd_search.formats.folding import fold_batchnorm
from tkd_search.formats.onnx_writer import onnx_bytes
from tkd_search.models import build_student
from tkd_search.models.model_settings import StudentSettings

QUICK = {
    "lcnet_050": {},
    "mobilenetv3_small_050": {},
    "resnet10t": {"channels": [16, 16, 32, 32], "stem_width": 8},
    "vit_tiny_patch16_224": {"embed_dim": 48, "depth": 2},
}
SLOW = {
    "tf_efficientnet_lite0": {},
    "deit_tiny_patch16_224": {},
    "convnextv2_atto": {},
    "repvgg_a0": {},
    "regnetx_002": {},
    "mobilenetv4_conv_small": {},
    "ghostnet_100": {},
}
NAMES = [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)]


def network(name):
    torch.manual_seed(0)
    settings = StudentSettings(name=f"timm/{name}", args={**QUICK, **SLOW}[name])
    return disturbed(build_student(settings, classes=10, channels=3, size=32).model.eval())


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_timm_ships(name, tmp_path):
    plain = network(name)
    given = images(64, seed=1)
    with torch.no_grad():
        unrounded = plain(given)
        torch.testing.assert_close(fold_batchnorm(plain)(given), unrounded, rtol=1e-3, atol=1e-3)
    for format in ("fp32", "int8"):
        student, file = simulated(copy.deepcopy(plain), format, images()), tmp_path / f"{format}.safetensors"
        assert save(student, format, file) == file.stat().st_size == shipped_bytes(plain, format)
        loaded = unpack(load_file(file), plain, format)
        run = runtime(onnx_bytes(loaded, format, (3, 32, 32)))
        with torch.no_grad():
            simulation, expected = student(given), loaded(given)
        found = run(given)
        # Two independent roundings differ by √2 times the error of one.
        allowed = 1.5 * (unrounded - simulation).abs().mean() if format == "int8" else 1e-3
        assert (expected - simulation).abs().mean() <= allowed
        assert (found - expected).abs().mean() <= allowed

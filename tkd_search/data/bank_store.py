"""The bank on disk: one safetensors file, memory-mapped when read, named by what it depends on."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tkd_search.data.settings import DataSettings
from tkd_search.distill.bank import Bank
from tkd_search.distill.settings import BankSettings

BANK_FILE = "bank.safetensors"
_FORMAT = 1


def bank_key(
    data_digest: str, model_digests: Sequence[str], bank: BankSettings, data: DataSettings, seed: int
) -> str:
    """A name for the bank of these images, big models, taps and views: equal keys, equal banks.

    Args:
        data_digest: ``DataBundle.digest``.
        model_digests: of the big models' weights, in order.
        bank: taps, width and grid.
        data: views and augmentation.
        seed: root seed of the views.
    """
    parts = [_FORMAT, data_digest, list(model_digests), asdict(bank), data.views, data.augment, seed]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def save_bank(bank: Bank, folder: Path) -> None:
    """Write the bank; the file appears whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().cpu() for name, tensor in bank.tensors().items()}
    temporary = folder / f".{BANK_FILE}.part"
    save_file(tensors, temporary, metadata={"bank": json.dumps(bank.meta())})
    temporary.replace(folder / BANK_FILE)


def load_bank(folder: Path) -> Bank:
    """Map the bank; its pages are shared by every process of a node.

    Raises:
        FileNotFoundError: no bank there.
    """
    file = folder / BANK_FILE
    with safe_open(file, framework="pt") as opened:
        meta = json.loads(opened.metadata()["bank"])
    return Bank.from_tensors(load_file(file), meta)

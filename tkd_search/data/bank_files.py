"""The bank on disk: named by a hash of its inputs, written atomically, memory-mapped by every trial."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tkd_search.data.data_settings import DataSettings
from tkd_search.data.load_bundle import fixed_views, resolved_augmentation
from tkd_search.data.views import VIEWS_VERSION
from tkd_search.distill.features.bank import Bank
from tkd_search.distill.method_settings import BankSettings
from tkd_search.errors import UserError
from tkd_search.storage.atomic_folder import atomic_folder

_SCHEMA = 2


def bank_key(
    data_digest: str, model_digests: Sequence[str], bank: BankSettings, data: DataSettings, seed: int
) -> str:
    """Return the name of a bank: a hash of everything its content depends on.

    Args:
        data_digest: ``DataBundle.digest``, a hash of images, labels and splits.
        model_digests: one per big model, in order: a hash of its inputs and its weights.
        bank: taps, width, grid.
        data: only what decides its views is used.
        seed: seed of the views.
    """
    content = {
        "schema": _SCHEMA,
        "data": data_digest,
        "models": list(model_digests),
        "bank": dataclasses.asdict(bank),
        "augment": resolved_augmentation(data),
        "randaugment": data.randaugment,
        "erasing": data.erasing,
        "views": fixed_views(data),
        "views_version": VIEWS_VERSION,
        "seed": seed,
    }
    text = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def save_bank(bank: Bank, folder: str | Path) -> None:
    """Write a bank atomically; an existing folder is replaced."""
    with atomic_folder(Path(folder)) as partial:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in bank.tensors().items()}
        save_file(tensors, partial / "bank.safetensors")
        content = {"schema": _SCHEMA, "meta": bank.meta()}
        (partial / "bank.json").write_text(
            json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8"
        )


def load_bank(folder: str | Path) -> Bank:
    """Return a memory-mapped bank that :func:`save_bank` wrote.

    Pages are read on first use and shared with other processes.

    Raises:
        UserError: it is missing or damaged.
    """
    path = Path(folder)
    try:
        content = json.loads((path / "bank.json").read_text(encoding="utf-8"))
        if content["schema"] != _SCHEMA:
            raise ValueError(f"schema {content['schema']}")
        return Bank.from_tensors(load_file(path / "bank.safetensors"), content["meta"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            str(path),
            f"no complete bank: {error}",
            "a bank that a search computed",
            "delete the folder; the search computes it again",
        ) from error

"""The bank on disk: named by what it depends on, written whole or not at all, mapped by every trial."""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tkd_search.data.data_settings import DataSettings
from tkd_search.data.load_data import fixed_views, resolved_augmentation
from tkd_search.data.views import VIEWS_VERSION
from tkd_search.distill.features.bank import Bank
from tkd_search.distill.method_settings import BankSettings
from tkd_search.errors import UserError
from tkd_search.storage.atomic_folder import atomic_folder

_SCHEMA = 2


def bank_key(
    data_digest: str, model_digests: Sequence[str], bank: BankSettings, data: DataSettings, seed: int
) -> str:
    """The name of a bank: a hash of everything its content depends on.

    Args:
        data_digest: ``DataBundle.digest``: images, labels and splits.
        model_digests: one per big model, in order: of all that it depends on, and of its weights.
        bank: taps, width, grid.
        data: of it the augmentation and the number of views.
        seed: of the views.
    """
    content = {
        "schema": _SCHEMA,
        "data": data_digest,
        "models": list(model_digests),
        "bank": dataclasses.asdict(bank),
        "augment": resolved_augmentation(data),
        "views": fixed_views(data),
        "views_version": VIEWS_VERSION,
        "seed": seed,
    }
    text = json.dumps(content, sort_keys=True).encode()
    return hashlib.blake2b(text, digest_size=16).hexdigest()


def save_bank(bank: Bank, folder: str | Path) -> None:
    """Write a bank, whole or not at all; a folder of that name is replaced."""
    with atomic_folder(Path(folder)) as partial:
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in bank.tensors().items()}
        save_file(tensors, partial / "bank.safetensors")
        described = {"schema": _SCHEMA, "meta": bank.meta()}
        (partial / "bank.json").write_text(json.dumps(described, ensure_ascii=False, indent=1))


def load_bank(folder: str | Path) -> Bank:
    """Map what :func:`save_bank` wrote; pages are read on first use and shared with other processes.

    Raises:
        UserError: there is none, or it is damaged.
    """
    place = Path(folder)
    try:
        described = json.loads((place / "bank.json").read_text())
        if described["schema"] != _SCHEMA:
            raise ValueError(f"schema {described['schema']}")
        return Bank.from_tensors(load_file(place / "bank.safetensors"), described["meta"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            str(place),
            f"no whole bank: {error}",
            "what a search computed",
            "delete the folder: it is computed again",
        ) from error

"""The bank on disk: named by a hash of its inputs, written batch by batch, memory-mapped by every trial."""

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tkd_search.data.data_settings import DataSettings
from tkd_search.data.load_bundle import fixed_views, resolved_augmentation
from tkd_search.data.views import VIEWS_VERSION
from tkd_search.distill.features.bank import Bank
from tkd_search.distill.features.bank_builder import BankBuilder, Survey
from tkd_search.distill.method_settings import BankSettings
from tkd_search.errors import UserError
from tkd_search.files import reserve, write_text
from tkd_search.storage.atomic_folder import atomic_folder

BANK_FILE = "bank.safetensors"
SECONDS_BETWEEN = 30.0
"""Seconds after which the rows written so far are flushed to the disk and counted."""

_SCHEMA = 3
_DTYPES = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}
_JOINED = 4096


def bank_key(
    data_digest: str, model_digests: Sequence[str], bank: BankSettings, data: DataSettings, seed: int
) -> str:
    """Return the name of a bank: a hash of everything its content depends on.

    Args:
        data_digest: ``DataBundle.digest``, a hash of images, labels and splits.
        model_digests: one per big model, in order: a hash of its inputs and its weights.
        bank: taps, width, grid, cells.
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


class BankFile:
    """A safetensors file of a bank whose rows are written in any order, without holding them in memory.

    Use as a context manager.

    Args:
        path: a file that :meth:`create` made.
    """

    def __init__(self, path: Path) -> None:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        self._first = {
            name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name[:2] != "__"
        }
        self._file = os.open(path, os.O_WRONLY)

    @classmethod
    def create(cls, path: Path, template: Bank, rows: int) -> None:
        """Create the file of a bank with space for so many rows.

        Raises:
            OSError: the disk is full.
        """
        tensors = template.tensors()
        header: dict[str, object] = {
            "__metadata__": {"schema": str(_SCHEMA), "bank": json.dumps(template.meta())}
        }
        offset = 0
        for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
            shape = [rows if name in template.row_tensors() else len(tensor), *tensor.shape[1:]]
            end = offset + math.prod(shape) * tensor.element_size()
            header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": shape, "data_offsets": [offset, end]}
            offset = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + offset)
            reserve(file.fileno(), 8 + len(text) + offset)
        with cls(path) as created:
            created.write(0, {name: t for name, t in tensors.items() if name not in template.row_tensors()})
            created.flush()

    def write(self, first: int, rows: Mapping[str, Tensor]) -> None:
        """Write tensors by name, from row ``first`` on."""
        for name, values in rows.items():
            content = values.detach().cpu().contiguous()
            place = self._first[name] + first * content[:1].nbytes
            data = memoryview(content.numpy().tobytes())
            while data:
                written = os.pwrite(self._file, data, place)
                data, place = data[written:], place + written

    def flush(self) -> None:
        """Flush what was written to the disk."""
        os.fsync(self._file)

    def __enter__(self) -> "BankFile":
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._file)


def write_bank(builder: BankBuilder, folder: Path, survey: Survey | None = None) -> None:
    """Compute the rows of a bank, or of a part of one, into ``folder``.

    Where an earlier call was killed it goes on after the rows that were flushed; memory holds one batch.

    Args:
        builder: computes the rows.
        folder: gets the file ``BANK_FILE``.
        survey: the survey of all rows; default: that of the builder.
    """
    file, progress = folder / BANK_FILE, folder / "progress.json"
    if not progress.exists():
        BankFile.create(file, builder.template(survey or builder.survey()), builder.row_count)
        write_text(progress, "0", durable=True)
    saved = time.monotonic()
    with BankFile(file) as bank:
        for first, rows in builder.rows(read_bank(file), int(progress.read_text(encoding="utf-8"))):
            bank.write(first, rows)
            if time.monotonic() - saved >= SECONDS_BETWEEN:
                bank.flush()
                write_text(progress, str(first + len(rows["logits"])), durable=True)
                saved = time.monotonic()
        bank.flush()
    # The file stays: a kill while the folder is finished does not cost the rows.
    write_text(progress, str(builder.row_count), durable=True)


def join_banks(files: Sequence[Path], target: Path) -> None:
    """Write one bank from files with its successive rows and the same projections.

    Raises:
        ValueError: the parts do not hold as many rows as there are views.
    """
    parts = [read_bank(file) for file in files]
    bank, rows = parts[0], sum(len(part.logits) for part in parts)
    if rows != bank.views * len(bank.labels):
        raise ValueError(f"parts hold {rows} rows of {bank.views * len(bank.labels)}")
    BankFile.create(target, bank, rows)
    with BankFile(target) as file:
        first = 0
        for part in parts:
            for start in range(0, len(part.logits), _JOINED):
                tensors = part.row_tensors().items()
                file.write(first + start, {name: t[start : start + _JOINED] for name, t in tensors})
            first += len(part.logits)


def save_bank(bank: Bank, folder: str | Path) -> None:
    """Write a bank atomically; an existing folder is replaced."""
    with atomic_folder(Path(folder)) as partial:
        BankFile.create(partial / BANK_FILE, bank, len(bank.logits))
        with BankFile(partial / BANK_FILE) as file:
            file.write(0, bank.row_tensors())


def load_bank(folder: str | Path) -> Bank:
    """Return a memory-mapped bank of a folder.

    Pages are read on first use and shared with other processes.

    Raises:
        UserError: it is missing or damaged.
    """
    path = Path(folder)
    try:
        return read_bank(path / BANK_FILE)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(
            str(path),
            f"no complete bank: {error}",
            "a bank that a search computed",
            "delete the folder; the search computes it again",
        ) from error


def read_bank(file: Path) -> Bank:
    """Return the memory-mapped bank of one file; errors as of ``safetensors``.

    Raises:
        ValueError: another schema.
    """
    with safe_open(file, "pt") as content:
        metadata = content.metadata() or {}
        if metadata.get("schema") != str(_SCHEMA):
            raise ValueError(f"schema {metadata.get('schema')}")
        tensors = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    return Bank.from_tensors(tensors, json.loads(metadata["bank"]))

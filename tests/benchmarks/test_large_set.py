"""The stages of the benchmark of large sets, on a few images."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.large_set import stages
from benchmarks.large_set.images import write_folders, write_parquet

COUNT = 50


@pytest.mark.parametrize("streamed", [False, True])
def test_a_generated_set_is_read_taught_from_its_bank_and_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cache"))
    folders, table = tmp_path / "folders", tmp_path / "t.parquet"
    write_folders(folders, COUNT)
    write_parquet(table, folders, COUNT)
    assert sorted(pq.read_table(table)["image"].to_pylist()) == sorted(
        file.read_bytes() for file in folders.glob("*/*.jpg")
    )
    # 50 images of 512 pixels a side take 39 MB: more than the least memory budget.
    data = {"name": "table", "path": str(table), "size": 512, "views": 1, "memory_budget_mb": 16}
    job = {"data": {**data, **({"disk_budget_gb": 0} if streamed else {})}, "place": str(tmp_path)}
    read = stages.read(job)
    assert read == {"kept": "FolderStore" if streamed else "decoded", "images": COUNT}
    assert stages.bank(job)["rows"] == 30
    figures = json.loads(json.dumps(stages.epoch(job)))
    assert figures["images"] == 30
    assert figures["epoch_seconds"] > 0

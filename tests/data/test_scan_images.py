"""Image files are decoded once: by several processes, for the machine, into a file on the disk."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.data import writers
from tkd_search.data import (
    scan_images,
)
from tkd_search.data.image_files import FolderStore
from tkd_search.storage.remote_folders import MANIFEST


class TestDecodingByProcesses:
    @pytest.mark.parametrize("keep", [True, False])
    def test_several_processes_and_one_find_the_same(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: bool
    ) -> None:
        writers.write_images(tmp_path, 12)
        (tmp_path / "006.png").write_bytes(b"no image")
        files = [f"{i:03d}.png" for i in range(12)]
        paths = [str(tmp_path / name) for name in files]
        one = scan_images.scan_images(paths, 12, 3, keep=keep)
        monkeypatch.setattr(scan_images, "IMAGES_PER_PROCESS", 4)
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1, 2})
        several = scan_images.scan_images(paths, 12, 3, keep=keep)
        assert torch.equal(one.content, several.content)
        assert one.broken == several.broken
        assert list(one.broken) == [6]
        assert "006.png: " in one.broken[6]
        if not keep:
            assert one.images is several.images is None
            return
        readable = torch.tensor([i for i in range(12) if i != 6])
        wanted = FolderStore(str(tmp_path), tuple(files), 12, 3)[readable]
        for scanned in (one, several):
            assert scanned.images is not None
            assert torch.equal(scanned.images[readable], wanted)

    def test_a_temporary_folder_that_cannot_be_used_makes_one_process_do_the_work(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writers.write_images(tmp_path, 8)
        paths = [str(tmp_path / f"{i:03d}.png") for i in range(8)]
        one = scan_images.scan_images(paths, 12, 3, keep=True)
        monkeypatch.setattr(scan_images, "IMAGES_PER_PROCESS", 4)
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
        assert torch.equal(scan_images.scan_images(paths, 12, 3, keep=True).images, one.images)


class TestScanOnce:
    def test_without_a_cache_every_call_scans(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "file").write_text("no folder")
        monkeypatch.setenv("TKD_CACHE", str(tmp_path / "file" / "cache"))
        writers.write_images(tmp_path, 2)
        scanned = scan_images.scan_once([str(tmp_path / f"{i:03d}.png") for i in range(3)], 12, 3)
        assert set(scanned.broken) == {2}

    def test_unchanged_files_are_decoded_once_and_changed_ones_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writers.write_images(tmp_path, 3)
        (tmp_path / "001.png").write_bytes(b"no image")
        paths = [str(tmp_path / f"{i:03d}.png") for i in range(4)]
        calls = []
        scan = scan_images._scan_in_process

        def counted(job: dict[str, Any]) -> str:
            calls.append(job)
            return scan(job)

        monkeypatch.setattr(scan_images, "_scan_in_process", counted)
        first, again = (scan_images.scan_once(paths, 12, 3) for _ in range(2))
        assert len(calls) == 1
        assert torch.equal(first.content, again.content)
        assert first.broken == again.broken
        assert set(first.broken) == {1, 3}
        shutil.copy(paths[0], paths[1])
        repaired = scan_images.scan_once(paths, 12, 3)
        assert len(calls) == 2
        assert set(repaired.broken) == {3}
        assert repaired.content[0] == repaired.content[1]


class TestScanToTheDisk:
    def scan(self, root: Path) -> scan_images.ScannedImages:
        paths = [str(root / f"{i:03d}.png") for i in range(12)]
        return scan_images.scan_once(paths, 12, 3, disk_budget_gb=1)

    def test_a_scan_that_was_killed_goes_on_after_its_last_chunk(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writers.write_images(tmp_path, 12)
        (tmp_path / "006.png").write_bytes(b"no image")
        monkeypatch.setattr(scan_images, "IMAGES_PER_PROCESS", 4)
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0})
        monkeypatch.setenv("TKD_CACHE", str(tmp_path / "whole"))
        whole = self.scan(tmp_path)
        monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cut"))
        started, run = [], scan_images._scan_in_process

        def killed(job: dict[str, Any]) -> str:
            started.append(job["start"])
            if len(started) == 2:
                raise KeyboardInterrupt
            return run(job)

        monkeypatch.setattr(scan_images, "_scan_in_process", killed)
        with pytest.raises(KeyboardInterrupt):
            self.scan(tmp_path)
        resumed = self.scan(tmp_path)
        # The thread that decodes may have ended another chunk before the interrupt arrived.
        assert started.count(0) == 1
        assert sorted(set(started)) == [0, 4, 8]
        assert torch.equal(resumed.content, whole.content)
        assert resumed.broken == whole.broken
        assert resumed.file is not None
        assert whole.file is not None
        assert resumed.file.read_bytes() == whole.file.read_bytes()
        assert {file.name for file in resumed.file.parent.iterdir()} == {"images.npy", "scan.json", MANIFEST}

    @pytest.mark.parametrize("name", ["images.npy", "scan.json"])
    def test_damaged_decoded_images_are_decoded_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
    ) -> None:
        monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cache"))
        writers.write_images(tmp_path, 12)
        first = self.scan(tmp_path)
        assert first.file is not None
        whole = first.file.read_bytes()
        damaged = first.file.with_name(name)
        damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x01")
        again = self.scan(tmp_path)
        assert again.file is not None
        assert again.file.read_bytes() == whole
        assert torch.equal(again.content, first.content)

    def test_images_that_exceed_the_budget_or_the_disk_are_not_kept(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writers.write_images(tmp_path, 3)
        monkeypatch.setenv("TKD_CACHE", str(tmp_path / "cache"))
        paths = [str(tmp_path / f"{i:03d}.png") for i in range(3)]
        assert scan_images.scan_once(paths, 12, 3, disk_budget_gb=1e-6).file is None
        usage = shutil.disk_usage(tmp_path)
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=2 * 3 * 12 * 12 * 3 - 1))
        assert scan_images.scan_once(paths, 12, 3, disk_budget_gb=None).file is None
        monkeypatch.setattr(shutil, "disk_usage", lambda place: usage._replace(free=2 * 3 * 12 * 12 * 3))
        kept = scan_images.scan_once(paths, 12, 3, disk_budget_gb=None)
        assert kept.file is not None
        assert torch.equal(
            torch.from_numpy(np.load(kept.file)),
            FolderStore(str(tmp_path), ("000.png", "001.png", "002.png"), 12, 3)[torch.arange(3)],
        )

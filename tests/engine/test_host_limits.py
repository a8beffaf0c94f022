"""Limits of a machine, as control groups and the kernel give them, and what they allow."""

import math

import pytest

from tkd_search.engine import host_limits
from tkd_search.engine.host_limits import HostLimits, allowed_cpus, core_share, most_workers, shortages

FOUR_GIB = 4.0 * 2**30


@pytest.fixture
def machine(tmp_path):
    """Return a function that writes a machine's control groups: the process's lines and the files."""

    def write(lines, files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/cgroup").write_text(lines)
        for name, text in files.items():
            file = tmp_path / "sys/fs/cgroup" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{text}\n")
        return tmp_path

    return write


def test_a_machine_without_limits_is_enough():
    assert shortages(HostLimits()) == []
    assert most_workers(HostLimits()) == (None, "")


@pytest.mark.parametrize(
    ("limits", "name", "found"),
    [
        (HostLimits(memory=2e9), "memory", "2.0 GB"),
        (HostLimits(processes=200), "processes", "200 processes and threads"),
        (HostLimits(open_files=100), "open files", "100 open files"),
    ],
)
def test_a_shortage_says_what_was_found_what_is_needed_and_what_to_do(limits, name, found):
    (short,) = shortages(limits)
    assert short.name == name
    assert found in short.found
    assert short.needed.startswith("at least")
    assert "docker run" in short.fix
    assert most_workers(limits) == (1, name)


def test_four_gib_are_enough_for_one_worker_and_the_scarcest_limit_decides():
    assert shortages(HostLimits(memory=FOUR_GIB, open_files=256)) == []
    assert most_workers(HostLimits(memory=FOUR_GIB, open_files=4096)) == (1, "memory")
    assert most_workers(HostLimits(memory=64e9, processes=1024)) == (3, "processes")


def test_limits_of_a_container_with_control_groups_v2(machine):
    stat = "anon 5\ninactive_file 1000000000"
    root = machine(
        "0::/a/b\n",
        {
            "a/b/memory.max": "max", "a/b/memory.current": "2000000000", "a/b/memory.stat": stat,
            "a/memory.max": "4000000000", "a/memory.current": "2000000000", "a/memory.stat": stat,
            "memory.stat": stat,
            "a/cpu.max": "150000 100000", "a/b/cpu.max": "max 100000",
            "a/b/pids.max": "512", "a/b/pids.current": "12",
        },
    )  # fmt: skip
    limits = host_limits.host_limits(root)
    assert limits.memory == 3e9
    assert limits.processes == 500
    assert allowed_cpus(root) == min(2, allowed_cpus())


def test_limits_of_a_container_with_control_groups_v1_whose_path_is_that_of_the_host(machine):
    root = machine(
        "4:memory:/docker/1f\n3:cpu,cpuacct:/docker/1f\n2:pids:/docker/1f\n1:name=systemd:/\n0::/\n",
        {
            "memory/memory.limit_in_bytes": "3000000000", "memory/memory.usage_in_bytes": "2000000000",
            "memory/memory.stat": "cache 9\ntotal_inactive_file 500000000",
            "cpu/cpu.cfs_quota_us": "50000", "cpu/cpu.cfs_period_us": "100000",
            "pids/pids.max": "max", "pids/pids.current": "12",
        },
    )  # fmt: skip
    limits = host_limits.host_limits(root)
    assert limits.memory == 1.5e9
    assert limits.processes == math.inf
    assert core_share(root) == 0.5
    assert allowed_cpus(root) == 1


def test_a_machine_without_control_groups_has_its_cores(tmp_path):
    assert allowed_cpus(tmp_path) >= 1
    assert host_limits.host_limits(tmp_path).processes > 0

"""Limits come from the container, not from its host: the tests write made-up cgroup files."""

import os
from types import SimpleNamespace

import psutil
import pytest

from course_lib import doctor
from course_lib.measuring import machine

GIB = 2**30


@pytest.fixture
def container(tmp_path, monkeypatch):
    """Eight processors and 32 GiB; a function that writes files below ``proc`` and ``sys``."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(8), raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    facts = SimpleNamespace(available=30 * GIB, total=32 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: facts)

    def write(cgroup: str, **files: str):
        (tmp_path / "proc" / "self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc" / "self" / "cgroup").write_text(cgroup)
        for name, text in files.items():
            file = tmp_path / "sys" / "fs" / "cgroup" / name.replace("__", "/").replace("-", ".")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return write


V2 = {
    "limited": ({"cpu-max": "100000 100000\n"}, 1),
    "half of a core": ({"cpu-max": "50000 100000"}, 0.5),
    "not limited": ({"cpu-max": "max 100000"}, 8),
    "more than there are": ({"cpu-max": "1600000 100000"}, 8),
    "limited in the group": ({"a__b__cpu-max": "200000 100000"}, 2),
    "limited around the group": ({"a__cpu-max": "300000 100000", "a__b__cpu-max": "max 100000"}, 3),
    "limited twice": ({"a__cpu-max": "300000 100000", "a__b__cpu-max": "150000 100000"}, 1.5),
    "damaged": ({"a__b__cpu-max": "much of it"}, 8),
    "empty": ({"a__b__cpu-max": ""}, 8),
    "a quota without a period": ({"a__b__cpu-max": "100000"}, 8),
    "no period": ({"a__b__cpu-max": "100000 0"}, 8),
}


@pytest.mark.parametrize(("files", "cores"), V2.values(), ids=V2)
def test_cores_of_version_2(container, files, cores):
    assert machine.cores(container("0::/a/b\n", **files)) == cores


V1 = {
    "limited": ({"cpu__a__cpu-cfs_quota_us": "150000", "cpu__a__cpu-cfs_period_us": "100000"}, 1.5),
    "not limited": ({"cpu__a__cpu-cfs_quota_us": "-1", "cpu__a__cpu-cfs_period_us": "100000"}, 8),
    "limited around the group": (
        {"cpu__cpu-cfs_quota_us": "400000", "cpu__cpu-cfs_period_us": "100000"},
        4,
    ),
    "both controllers in one tree": (
        {
            "cpu,cpuacct__a__cpu-cfs_quota_us": "200000",
            "cpu,cpuacct__a__cpu-cfs_period_us": "100000",
        },
        2,
    ),
    "the path of the host": (  # as seen in a container without a cgroup namespace of its own
        {"cpu__cpu-cfs_quota_us": "100000", "cpu__cpu-cfs_period_us": "100000"},
        1,
    ),
}


@pytest.mark.parametrize(("files", "cores"), V1.values(), ids=V1)
def test_cores_of_version_1(container, files, cores):
    assert machine.cores(container("4:memory:/a\n3:cpu,cpuacct:/a\n0::/\n", **files)) == cores


def test_the_affinity_of_the_process_counts(container, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {5, 6}, raising=False)
    assert machine.cores(container("0::/")) == 2
    assert machine.cores(container("0::/", **{"cpu-max": "100000 100000"})) == 1


def test_a_system_without_affinity_and_groups(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert machine.cores(tmp_path) == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert machine.cores(tmp_path) == 1


MEMORY = {
    "version 2": ("0::/", {"memory-max": str(2 * GIB), "memory-current": str(GIB)}, 1, 2),
    "version 2, the cache of files is free": (
        "0::/",
        {
            "memory-max": str(2 * GIB),
            "memory-current": str(2 * GIB),
            "memory-stat": f"anon 3\ninactive_file {GIB}\nactive_file 7\n",
        },
        1,
        2,
    ),
    "version 2, no limit": ("0::/", {"memory-max": "max", "memory-current": str(GIB)}, 30, 32),
    "version 2, around the group": (
        "0::/a/b",
        {"a__memory-max": str(4 * GIB), "a__memory-current": str(GIB), "a__b__memory-max": "max"},
        3,
        4,
    ),
    "version 1": (
        "4:memory:/a",
        {
            "memory__a__memory-limit_in_bytes": str(2 * GIB),
            "memory__a__memory-usage_in_bytes": str(2 * GIB),
            "memory__a__memory-stat": f"inactive_file 5\ntotal_inactive_file {GIB}\n",
        },
        1,
        2,
    ),
    "version 1, no limit": (
        "4:memory:/",
        {
            "memory__memory-limit_in_bytes": "9223372036854771712",
            "memory__memory-usage_in_bytes": str(GIB),
        },
        30,
        32,
    ),
    "more is used than allowed": (
        "0::/",
        {"memory-max": str(GIB), "memory-current": str(2 * GIB)},
        0,
        1,
    ),
    "nothing": ("", {}, 30, 32),
}


@pytest.mark.parametrize(("cgroup", "files", "free", "most"), MEMORY.values(), ids=MEMORY)
def test_memory_of_the_container(container, cgroup, files, free, most):
    assert machine.memory(container(cgroup, **files)) == (free * GIB, most * GIB)


ONE_CORE = {"cpu-max": "100000 100000", "memory-max": str(2 * GIB), "memory-current": str(GIB // 2)}


def test_the_doctor_in_a_container_of_one_core_and_two_gigabytes(container):
    root = container("0::/", **ONE_CORE)
    cores, memory = doctor.cores(root), doctor.memory(root=root)
    assert cores.ok and cores.detail.startswith("1 of 8: a container or a setting limits them")
    assert not memory.ok and memory.detail.startswith("1.5 of 2.0 GiB free")
    assert "give it more memory" in memory.remedy
    assert machine.usable_threads(root) == 1
    assert not doctor.threads(cores=0).ok and "OMP_NUM_THREADS=0" in doctor.threads(cores=0).remedy


@pytest.mark.parametrize(("quota", "threads"), [("50000", 1), ("100000", 1), ("150000", 2)])
def test_a_fraction_of_a_core_runs_a_thread(container, quota, threads):
    root = container("0::/", **{"cpu-max": f"{quota} 100000"})
    assert machine.usable_threads(root) == threads


FLAGS = {
    "server": ("flags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16\n" * 2, "1111 0 0"),
    "old laptop": ("flags : fpu avx2\n", "1000 0 0"),
    "newest server": ("flags : avx2 avx512f avx_vnni amx_bf16 avx512_fp16 amx_tile\n", "1111 1 1"),
    "ARM": ("Features : fp asimd asimdhp asimddp bf16 sve\n", "1111 1 0"),
    "ancient": ("flags : fpu sse2\n", "0000 0 0"),
}


@pytest.mark.parametrize(("text", "there"), FLAGS.values(), ids=FLAGS)
def test_instructions_and_what_they_mean(tmp_path, text, there):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "cpuinfo").write_text(f"processor : 0\nmodel name : made up\n{text}")
    for kind, has in zip(machine.INSTRUCTIONS, there.replace(" ", ""), strict=True):
        found = doctor.processor(kind, tmp_path)
        assert found.ok and found.name == kind.name
        said, _, where = found.detail.partition(" (")
        assert said.endswith(kind.present if has == "1" else kind.missing)
        assert where.removesuffix(")") == doctor.LESSONS.get(kind.name, "")


def test_every_kind_that_a_lesson_is_named_for_exists():
    assert doctor.LESSONS.keys() <= {kind.name for kind in machine.INSTRUCTIONS}


def test_a_system_that_does_not_say(tmp_path, monkeypatch):
    monkeypatch.setattr(machine.platform, "system", lambda: "Windows")
    assert (
        doctor.processor(machine.INSTRUCTIONS[0], tmp_path).detail
        == "this system does not report it"
    )


def test_instructions_on_macos(tmp_path, monkeypatch):
    said = "hw.optional.arm.FEAT_FP16: 1\nhw.optional.arm.FEAT_BF16: 0\nhw.optional.AdvSIMD: 1\n"
    monkeypatch.setattr(machine.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(machine.subprocess, "run", lambda *_, **__: SimpleNamespace(stdout=said))
    assert machine.flags(tmp_path) == {"hw.optional.arm.FEAT_FP16", "hw.optional.AdvSIMD"}

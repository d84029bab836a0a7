"""Thirty submissions of one lesson, seven of them hostile: the time, and the points of each kind.

    python tests/benchmarks/bench_grading.py [LESSON]

It fails if a submission gets the wrong number of points, or damages a file outside its folder.
"""

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the course, installed or not
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from submitted import empty, hand_in, hostile, lesson, partly, perfect

from course_lib.classroom.assignments import Assignment
from course_lib.classroom.grades import Grade
from course_lib.classroom.grading import grade

CLASS = 30


def submissions(of: Assignment, precious: Path) -> dict[str, tuple]:
    """The notebook and the expected points of each student; names begin with the kind."""
    points = [task.points for task in of.tasks]
    attacks = {f"hostile, {kind}": (each, 0) for kind, each in hostile(of, precious).items()}
    some = {
        f"partly right {number}": (partly(of, 1 + number % 3), sum(points[: 1 + number % 3]))
        for number in range(8)
    }
    untouched = {f"untouched {number}": (empty(of), 0) for number in range(5)}
    left = CLASS - len(attacks) - len(some) - len(untouched)
    right = {f"perfect {number}": (perfect(of), sum(points)) for number in range(left)}
    return right | some | untouched | attacks


def main(number: str) -> int:
    """Grade a class and print the table; return 1 if anything is not as expected."""
    of = lesson(number)
    with tempfile.TemporaryDirectory() as name:
        folders = [Path(name, each) for each in ("handed in", "out", "precious")]
        hand_in("precious", folders[2] / "file")
        given = submissions(of, folders[2])
        for student, (notebook, _) in given.items():
            hand_in(notebook, folders[0] / f"{student}.ipynb")
        start = time.perf_counter()
        grades = grade(folders[0], folders[1])
        seconds = time.perf_counter() - start
        unharmed = (folders[2] / "file").read_text() == "precious"
    expected = {student: points for student, (_, points) in given.items()}
    wrong = [one.student for one in grades if one.total != expected[one.student]]
    show(grades, expected)
    print(f"\n{len(grades)} submissions of lesson {number} in {seconds:.0f} s")
    print(f"other points than expected: {', '.join(wrong) or 'none'}; files unharmed: {unharmed}")
    return int(bool(wrong) or not unharmed)


def show(grades: list[Grade], expected: dict[str, int]) -> None:
    """A row of a Markdown table for each submission."""
    print("| submission | points | expected | reason |\n|---|---|---|---|")
    for one in grades:
        print(f"| {one.student} | {one.total} | {expected[one.student]} | {one.reason} |")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if sys.argv[1:] else "01"))

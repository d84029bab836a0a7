"""The command line of the course: ``python -m course_lib COMMAND``."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from course_lib.experiments.registry import EXPERIMENTS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    chosen = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = chosen.run
    return run(chosen)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m course_lib", description="Pruning, Measured: the command line."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    # Each command names the function that runs it, which takes the parsed arguments and returns
    # the exit status.
    doctor = commands.add_parser("doctor", help="check this machine and say what to repair")
    doctor.set_defaults(run=run_doctor)

    lab = commands.add_parser("lab", help="open JupyterLab on the first lesson")
    lab.add_argument("--port", type=int, help="port to serve on (8888, or the next free one)")
    lab.add_argument("--ip", help="address to serve on (this machine only; 0.0.0.0: any)")
    lab.set_defaults(run=run_lab)

    train = commands.add_parser("train", help="train a network of the course again")
    train.add_argument("name", help="for example small_resnet, which takes minutes")
    train.add_argument("--out", type=Path, help="where to write the weights (replaces data/)")
    train.set_defaults(run=run_train)

    record = commands.add_parser("record", help="run a long experiment; lessons read its file")
    record.add_argument("experiment", choices=EXPERIMENTS, metavar="EXPERIMENT", help=experiments())
    record.add_argument("--model", help="the trained network, if there is a choice")
    record.add_argument("--out", type=Path, help="file to write (this machine's in data/)")
    record.add_argument("--part", help="such as 3/16: every sixteenth task, into a separate file")
    record.add_argument("--minutes", type=float, help="time limit; the same command resumes")
    record.set_defaults(run=run_record)

    recordings = commands.add_parser("recordings", help="list the recordings, or merge parts")
    recordings.set_defaults(run=run_recordings)
    merge = recordings.add_subparsers(title="commands", metavar="COMMAND").add_parser(
        "merge", help="join the parts of a recording"
    )
    merge.add_argument("parts", type=Path, nargs="+", metavar="PART", help="the file of each part")
    merge.add_argument("--out", type=Path, help="file to write (this machine's in data/)")
    merge.set_defaults(run=run_merge)
    return parser


def experiments() -> str:
    """What can be recorded: the name and subject of each experiment, in one line."""
    return "; ".join(f"{name}: {one.about}" for name, one in EXPERIMENTS.items())


# Each command does its own imports, so that the doctor starts even on a broken installation.


def run_doctor(chosen: argparse.Namespace) -> int:
    """Print what the doctor found; return 1 if something needs repair."""
    from course_lib import doctor

    findings = doctor.examine()
    print(doctor.report(findings))
    return 0 if all(finding.ok for finding in findings) else 1


def run_lab(chosen: argparse.Namespace) -> int:
    """Serve JupyterLab until it is stopped."""
    from course_lib import lab

    lab.serve(chosen.port, chosen.ip)
    return 0


def run_train(chosen: argparse.Namespace) -> int:
    """Train a network and write its weights; without ``--out``, replace those of the course.

    Returns 1 if the accuracy misses its target, and 2 if the network cannot be trained.
    """
    from course_lib.measuring.quality import interval
    from course_lib.networks import data, minilm, recipes

    known = recipes.RECIPES | {recipes.MINILM.network: recipes.MINILM}
    if chosen.name not in known:
        print(f"No network is called {chosen.name!r}: choose from {[*known]}.", file=sys.stderr)
        return 2
    recipe = known[chosen.name]
    path = chosen.out or data.DATA / f"weights/{chosen.name}.safetensors"
    try:
        about, count, files = recipes.make(recipe, path)
    except minilm.PackageError as error:
        print(error, file=sys.stderr)
        return 2
    low, high = interval(float(about["test_accuracy"]), count)
    print(
        f"test accuracy {about['test_accuracy']} % ({low:.1f} to {high:.1f}), "
        f"epoch {about['epoch']} chosen on validation"
    )
    for file in files:
        if chosen.out is None:
            data.record_checksum(f"weights/{file.name}")
        print(f"wrote {file}")
    if float(about["test_accuracy"]) < recipe.must_reach:
        print(f"The recipe must reach {recipe.must_reach} %.", file=sys.stderr)
        return 1
    return 0


def run_record(chosen: argparse.Namespace) -> int:
    """Record an experiment, or resume it; return 1 if that fails, 130 if interrupted."""
    from course_lib.experiments.recorder import Part, record
    from course_lib.experiments.recordings import RecordingError
    from course_lib.networks.data import DataError

    try:
        part = Part.parse(chosen.part) if chosen.part else None
        path = record(
            chosen.experiment, chosen.model, chosen.out, part=part, minutes=chosen.minutes
        )
        print(f"wrote {path}")
    except KeyboardInterrupt:
        print("Stopped. Every finished task is kept; the same command resumes.", file=sys.stderr)
        return 130
    except (DataError, RecordingError, OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run_merge(chosen: argparse.Namespace) -> int:
    """Join the parts of a recording; return 1 if they do not belong together."""
    from course_lib.experiments.recorder import merge
    from course_lib.experiments.recordings import RecordingError

    try:
        print(f"wrote {merge(chosen.parts, chosen.out)}")
    except (RecordingError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def run_recordings(chosen: argparse.Namespace) -> int:
    """List the recordings; return 1 if one is damaged."""
    from course_lib.experiments import recordings

    try:
        print(*recordings.listed(), sep="\n")
    except recordings.RecordingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The command line of the course: ``python -m course_lib COMMAND``."""

import argparse
import sys
from pathlib import Path


def main(arguments=None) -> int:
    """Run one command; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m course_lib", description="Pruning, Measured: the command line."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    # A command is added here, and names the function that runs it: parsed arguments in, exit
    # status out.
    doctor = commands.add_parser("doctor", help="check this machine, and say what to repair")
    doctor.set_defaults(run=run_doctor)

    lab = commands.add_parser("lab", help="open JupyterLab on the first lesson")
    lab.add_argument("--port", type=int, help="where to serve (8888; the next free one if taken)")
    lab.add_argument("--ip", help="address to serve on (this machine only; 0.0.0.0 is everyone)")
    lab.set_defaults(run=run_lab)

    train = commands.add_parser("train", help="train a network of the course again")
    train.add_argument("name", help="such as small_resnet, which takes minutes")
    train.add_argument("--out", type=Path, help="where to write the weights (over those in data/)")
    train.set_defaults(run=run_train)

    record = commands.add_parser("record", help="measure for long, into a file that lessons read")
    experiments = record.add_subparsers(title="experiments", metavar="EXPERIMENT", required=True)
    recovery = experiments.add_parser("drop_recovery", help="accuracy after pruning (hours)")
    recovery.add_argument("--model", choices=["small_resnet", "resnet18"], required=True)
    products = experiments.add_parser("sparse_vs_dense", help="sparse products (minutes)")
    products.add_argument("--minutes", type=float, help="stop after so many; the command goes on")
    widths = experiments.add_parser("structured_speedup", help="fewer channels (minutes)")
    smaller = experiments.add_parser("compression", help="pruned, quantized, packed (an hour)")
    smaller.add_argument("--model", choices=["resnet18"], required=True)
    sentences = experiments.add_parser("transformer", help="a transformer made small (an hour)")
    parts = experiments.add_parser("mixed", help="convolutions and attention (an hour)")
    students = experiments.add_parser("distillation", help="one small network, four ways (an hour)")
    students.add_argument("--model", choices=["resnet18"], required=True)
    for experiment, run in (
        (recovery, record_recovery),
        (products, record_products),
        (widths, record_widths),
        (smaller, record_compression),
        (sentences, record_transformer),
        (parts, record_mixed),
        (students, record_distillation),
    ):
        experiment.add_argument("--out", type=Path, help="the file (this machine's in data/)")
        experiment.set_defaults(run=run_record, record=run)

    recordings = commands.add_parser("recordings", help="list the recordings that are there")
    recordings.set_defaults(run=run_recordings)

    chosen = parser.parse_args(arguments)
    return chosen.run(chosen)


# Each command imports what it needs itself, so that the doctor also starts on a broken
# installation.


def run_doctor(chosen) -> int:
    """Print what the doctor found; 1 when something is to be repaired."""
    from course_lib import doctor

    findings = doctor.examine()
    print(doctor.report(findings))
    return 0 if all(finding.ok for finding in findings) else 1


def run_lab(chosen) -> int:
    """Serve JupyterLab until it is stopped."""
    from course_lib import lab

    lab.serve(chosen.port, chosen.ip)
    return 0


def run_train(chosen) -> int:
    """Train a network and write its weights; 1 if it misses its target, 2 if it cannot be trained.

    Without a path, the weights of the course and their checksums are replaced.
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


def run_record(chosen) -> int:
    """Record an experiment, or go on with it; 1 when that is impossible, 130 when interrupted."""
    from course_lib.experiments.recordings import RecordingError
    from course_lib.networks.data import DataError

    try:
        print(f"wrote {chosen.record(chosen)}")
    except KeyboardInterrupt:
        print("Stopped. Every finished run is kept; the same command goes on.", file=sys.stderr)
        return 130
    except (DataError, RecordingError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def record_recovery(chosen) -> Path:
    """Accuracy right after pruning, and after retraining."""
    from course_lib.experiments import drop_recovery

    return drop_recovery.record(chosen.model, chosen.out)


def record_products(chosen) -> Path:
    """Sparse products against dense ones."""
    from course_lib.experiments import sparse_vs_dense

    return sparse_vs_dense.record(chosen.out, chosen.minutes)


def record_widths(chosen) -> Path:
    """Networks and layers with fewer channels."""
    from course_lib.experiments import structured_speedup

    return structured_speedup.record(chosen.out)


def record_compression(chosen) -> Path:
    """A network pruned, quantized and packed."""
    from course_lib.experiments import compression

    return compression.record(chosen.model, chosen.out)


def record_transformer(chosen) -> Path:
    """A transformer pruned, quantized and packed."""
    from course_lib.experiments import transformer

    return transformer.record(chosen.out)


def record_distillation(chosen) -> Path:
    """A small network from scratch or pruned, with a teacher or without."""
    from course_lib.experiments import distillation

    return distillation.record(chosen.model, chosen.out)


def record_mixed(chosen) -> Path:
    """Convolutions and attention in one network, pruned in every way."""
    from course_lib.experiments import mixed

    return mixed.record(chosen.out)


def run_recordings(chosen) -> int:
    """List the recordings; 1 when one is damaged."""
    from course_lib.experiments import recordings

    try:
        print(*recordings.listed(), sep="\n")
    except recordings.RecordingError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

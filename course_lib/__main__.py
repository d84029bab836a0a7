"""The command line of the course: ``python -m course_lib COMMAND``."""

import argparse
import sys


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


if __name__ == "__main__":
    sys.exit(main())

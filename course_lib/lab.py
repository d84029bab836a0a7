"""Start JupyterLab with the first lesson open: ``python -m course_lib lab``."""

import os
import sys
from collections.abc import Mapping

from course_lib import PROJECT

FIRST_LESSON = "notebooks/00_start_here.ipynb"


def arguments(
    port: int | None = None,
    ip: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> list[str]:
    """JupyterLab's command-line arguments for this machine.

    Args:
        port: port to serve on; None is Jupyter's default, 8888. If it is taken, Jupyter tries the
            next ones.
        ip: address to serve on; None is this machine only. Inside a container, ``0.0.0.0`` makes
            JupyterLab reachable from the host.
        environment: environment variables, which say whether there is a display.
    """
    chosen = [
        f"--ServerApp.root_dir={PROJECT}",
        f"--LabApp.default_url=/lab/tree/{FIRST_LESSON}",
        # The course needs no network, so its settings turn off news and update checks.
        f"--LabApp.app_settings_dir={PROJECT / 'course_lib' / 'lab_settings'}",
    ]
    if port is not None:
        chosen.append(f"--ServerApp.port={port}")
    if ip is not None:
        chosen.append(f"--ServerApp.ip={ip}")
    if is_root():
        chosen.append("--allow-root")
    if not has_display(environment):
        chosen.append("--no-browser")
    return chosen


def is_root() -> bool:
    """Whether this process runs as root on a Unix system, as it does in most containers."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def has_display(environment: Mapping[str, str], platform: str = sys.platform) -> bool:
    """Whether a browser can open here; remote editors set ``BROWSER`` to say so."""
    if not platform.startswith("linux"):
        return True
    return any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def serve(port: int | None = None, ip: str | None = None) -> None:
    """Serve JupyterLab until it is stopped; without a display, print the address to open.

    Raises:
        SystemExit: JupyterLab is not installed in this Python.
    """
    try:
        from jupyterlab.labapp import LabApp
    except ImportError as error:
        sys.exit(f"{sys.executable} has no JupyterLab ({error}). Use 'make lab', or see README.md.")

    # Run it in this process, so that Ctrl-C reaches it on every system.
    LabApp.launch_instance(argv=arguments(port, ip))

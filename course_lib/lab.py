"""JupyterLab, open on the first lesson: ``python -m course_lib lab``."""

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
        port: where to serve; None is Jupyter's own 8888. Jupyter tries the next ones when it is
            taken.
        ip: address to serve on; None is this machine only. Inside a container, ``0.0.0.0`` lets
            the machine around it in.
        environment: where to look for a display.
    """
    chosen = [
        f"--ServerApp.root_dir={PROJECT}",
        f"--LabApp.default_url=/lab/tree/{FIRST_LESSON}",
        # The course needs no network: its settings ask for no news and look for no updates.
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
    """Whether this is the administrator of a Unix machine, as it is in most containers."""
    return hasattr(os, "geteuid") and os.geteuid() == 0


def has_display(environment: Mapping[str, str], platform: str = sys.platform) -> bool:
    """Whether a browser can open here; a remote editor says so with ``BROWSER``."""
    if not platform.startswith("linux"):
        return True
    return any(environment.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))


def serve(port: int | None = None, ip: str | None = None) -> None:
    """Serve JupyterLab until it is stopped; without a display it prints the address to open.

    Raises:
        SystemExit: this Python has no JupyterLab.
    """
    try:
        from jupyterlab.labapp import LabApp
    except ImportError as error:
        sys.exit(f"{sys.executable} has no JupyterLab ({error}). Use 'make lab', or see README.md.")

    # In this process, so that Ctrl-C reaches it on every system.
    LabApp.launch_instance(argv=arguments(port, ip))

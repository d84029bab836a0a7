"""JupyterLab really starts and serves the first lesson."""

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from urllib.parse import parse_qs, urlsplit

import pytest

from course_lib import PROJECT, lab

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/\S*\?token=\w+")


@contextlib.contextmanager
def served(port, folder):
    """Run JupyterLab on ``port`` without a display; yield the address that it prints."""
    environment = {
        name: value
        for name, value in os.environ.items()
        # Independent of the display and the Jupyter settings of whoever runs the tests.
        if name not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER") and not name.startswith("JUPYTER")
    }
    for kind in ("CONFIG", "DATA", "RUNTIME"):
        environment[f"JUPYTER_{kind}_DIR"] = str(folder / kind.lower())
    command = [sys.executable, "-m", "course_lib", "lab", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
    )
    stop = threading.Timer(240, process.kill)  # a server that hangs must not hang the tests
    stop.start()
    log = []
    try:
        for line in process.stderr:
            log.append(line)
            if address := ADDRESS.search(line):
                break
        else:
            pytest.fail("No address was printed:\n" + "".join(log))
        # Keep reading, or the server would block on a full pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        wait_until_it_listens(urlsplit(address.group()).port)
        yield address.group()
    finally:
        stop.cancel()
        process.terminate()
        process.wait(240)


def wait_until_it_listens(port, seconds=240):
    """Jupyter prints the address a moment before it listens there."""
    end = time.monotonic() + seconds
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=seconds).close()
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def fetch(address, path):
    """The server's response for ``path``, requested with the token in ``address``."""
    parts = urlsplit(address)
    token = parse_qs(parts.query)["token"][0]
    request = urllib.request.Request(
        f"http://{parts.netloc}/{path}", headers={"Authorization": f"token {token}"}
    )
    # Bypass any proxy of this machine for requests to itself.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return answer.read().decode()


@pytest.mark.slow
def test_the_first_lesson_arrives_though_the_port_is_taken(tmp_path):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        taken = other.getsockname()[1]
        with served(taken, tmp_path) as address:
            assert urlsplit(address).port != taken
            assert urlsplit(address).path == f"/lab/tree/{lab.FIRST_LESSON}"
            assert json.loads(fetch(address, "api/status"))["kernels"] == 0
            assert "<title>JupyterLab</title>" in fetch(address, f"lab/tree/{lab.FIRST_LESSON}")
            lesson = json.loads(fetch(address, f"api/contents/{lab.FIRST_LESSON}"))["content"]
            notices = json.loads(
                fetch(address, "lab/api/settings/@jupyterlab/apputils-extension:notification")
            )
    defaults = notices["schema"]["properties"]
    assert defaults["fetchNews"]["default"] == "false", "JupyterLab would ask about news"
    assert defaults["checkForUpdates"]["default"] is False
    stored = json.loads((PROJECT / lab.FIRST_LESSON).read_text(encoding="utf-8"))
    assert stored["cells"], "the first lesson is empty"
    assert sources(lesson) == sources(stored)


def sources(notebook):
    return ["".join(cell["source"]) for cell in notebook["cells"]]


def test_a_browser_opens_only_where_there_is_a_display():
    assert not lab.has_display({}, "linux")
    assert not lab.has_display({"DISPLAY": ""}, "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"):
        assert lab.has_display({name: ":0"}, "linux")
    assert lab.has_display({}, "darwin")
    assert lab.has_display({}, "win32")


@pytest.mark.parametrize("root", [True, False])
def test_root_is_allowed_and_only_root_asks_for_it(root, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000, raising=False)
    assert ("--allow-root" in lab.arguments()) == root


def test_port_and_address_are_passed_on():
    chosen = lab.arguments(8900, "0.0.0.0")
    assert set(chosen) - set(lab.arguments()) == {
        "--ServerApp.port=8900",
        "--ServerApp.ip=0.0.0.0",
    }


def test_an_unknown_command_is_named():
    result = subprocess.run(
        [sys.executable, "-m", "course_lib", "docter"], cwd=PROJECT, capture_output=True, text=True
    )
    assert result.returncode == 2
    assert "invalid choice: 'docter' (choose from" in result.stderr

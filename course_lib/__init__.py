"""Pruning, Measured: the library that the lessons import, one module per idea."""

import os
from pathlib import Path

__version__ = "0.1.0"

# An OpenMP thread that has finished its share of a product first spins while it waits for the
# others, then sleeps. Waking up is slow, so some spinning helps. By default it lasts so long that,
# on a busy machine, it takes the processor from the very threads that it waits for. The setting
# takes effect if torch is imported later, and in lessons started from this process.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

# ONNX Runtime would keep a record of how it is used, for Microsoft. The course reports nothing.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

#: The root folder of the clone, which contains ``data/`` and ``notebooks/``.
PROJECT = Path(__file__).resolve().parent.parent

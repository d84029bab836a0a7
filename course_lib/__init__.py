"""Pruning, Measured: what every lesson imports, one module per idea."""

from pathlib import Path

__version__ = "0.1.0"

#: The folder of the clone: it holds ``data/`` and ``notebooks/``.
PROJECT = Path(__file__).resolve().parent.parent

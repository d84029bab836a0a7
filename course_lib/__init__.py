"""Pruning, Measured: what every lesson imports, one module per idea."""

import os
from pathlib import Path

__version__ = "0.1.0"

# A thread that has finished its share of a product waits for the others in a loop, and then sleeps.
# Waking takes long, so some waiting is good; as much as is usual takes the processor away from the
# very thread that is waited for, once other programs run. It counts for torch if torch is imported
# later, and for every lesson that is started from here.
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

#: The folder of the clone: it holds ``data/`` and ``notebooks/``.
PROJECT = Path(__file__).resolve().parent.parent

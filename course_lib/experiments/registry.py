"""The experiments that can be recorded.

A new experiment needs an entry here, the type of its recording in :mod:`.records`, and a module of
its own name in this package with two functions: ``header(model, device)`` returns the header
fields besides those that all recordings have, and ``run(recording)`` measures what a
:class:`.recorder.Recording` lacks.
"""

from importlib import import_module
from types import ModuleType
from typing import NamedTuple


class Experiment(NamedTuple):
    """An experiment that can be recorded.

    Args:
        about: what it measures, and how long that takes.
        models: the trained networks that it can measure; empty if it needs none.
        undivided: why it cannot be measured in parts; empty if it can.
        timed: whether it records times, so that the whole recording must come from one machine.
    """

    about: str
    models: tuple[str, ...] = ()
    undivided: str = ""
    timed: bool = True


EXPERIMENTS = {
    "drop_recovery": Experiment(
        "accuracy after pruning, recalibration and retraining (hours)",
        models=("small_resnet", "small_resnet_1", "small_resnet_2", "resnet18"),
        timed=False,
    ),
    "sparse_vs_dense": Experiment("sparse matrix products compared with dense ones (minutes)"),
    "structured_speedup": Experiment(
        "the speed of layers and networks with fewer channels (minutes)",
        models=("resnet18",),
    ),
    "compression": Experiment(
        "a network pruned, quantized and packed (an hour)",
        models=("resnet18",),
        undivided="its networks are made from one another",
    ),
    "transformer": Experiment(
        "a transformer pruned, quantized and packed (an hour)",
        models=("minilm",),
        undivided="its networks are made from one another",
    ),
    "mixed": Experiment(
        "convolutions and attention, each pruned in every way (an hour)",
        models=("conv_attention",),
        undivided="its networks are timed alternately",
    ),
    "distillation": Experiment(
        "a small network, trained in four ways (an hour)",
        models=("resnet18",),
    ),
    "language_model": Experiment(
        "a language model pruned and quantized (hours; needs its package, see README.md)",
    ),
}


def module_of(name: str) -> ModuleType:
    """The module of the experiment ``name``."""
    return import_module(f"course_lib.experiments.{name}")

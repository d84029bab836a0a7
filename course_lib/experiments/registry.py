"""The experiments that can be recorded, and the fields of their recordings.

A new experiment needs an entry here and a module of the same name in this package, with two
functions: ``header(model, device)`` returns the header fields of its recording besides those that
all recordings have, and ``run(recording)`` measures what a :class:`.recorder.Recording` lacks.
"""

from importlib import import_module
from types import ModuleType
from typing import NamedTuple

# --- the fields of a recording ------------------------------------------------------------------

HEADER = {
    "schema": int,
    "experiment": str,
    "command": str,
    "machine": dict,
    "started": str,
    "written": str,
}

MEASURED = {"accuracy": "percentage", "interval": "interval", "validation": "percentage"}
SIZE = {"parameters": int, "macs": int}

TRAINED = {"model": str, "weights": str}
TIMED = {"median": float, "quartiles": "range", "rounds": int}  # in milliseconds
TIMED |= {"speedup": float, "interval": "range"}
NETWORK = {"name": str, "source": str, "weights": float, "codebook_size": int}
NETWORK |= {"epoch_fraction": float}
CHANGE = {"accuracy": float, "loss": float}  # in points and in nats
PRODUCT = {
    "matrix": str,
    "rows": int,
    "columns": int,
    "batch": int,
    "dtype": str,
    "target_sparsity": float,
}

DEPLOYED = {
    "points": [
        {"network": str, "form": str, "bytes": int, "one thread": TIMED, "two threads": TIMED}
        | MEASURED
        | SIZE
    ],
    "packed": [{"network": str, "bytes": int, "bound": int, "packing": float, "unpacking": float}],
}


# --- the experiments ----------------------------------------------------------------------------


class Experiment(NamedTuple):
    """An experiment that can be recorded.

    Args:
        about: what it measures, and how long that takes.
        shape: the fields of a recording with their types; a list contains the fields of an entry.
            Names of types, such as "interval", are those of :data:`.recordings.KINDS`.
        models: the trained networks that it can measure; empty if it needs none.
        undivided: why it cannot be measured in parts; empty if it can.
        timed: whether it records times, so that the whole recording must come from one machine.
    """

    about: str
    shape: dict
    models: tuple[str, ...] = ()
    undivided: str = ""
    timed: bool = True


EXPERIMENTS = {
    "drop_recovery": Experiment(
        "accuracy after pruning, recalibration and retraining (hours)",
        HEADER
        | TRAINED
        | {
            "seeds": [int],
            "recipe": {"epochs": float, "lr": float},
            "dense": MEASURED | SIZE,
            "pruned": [{"granularity": str, "amount": float} | MEASURED | SIZE],
            "recalibrated": [{"granularity": str, "amount": float} | MEASURED],
            "points": [
                {
                    "granularity": str,
                    "amount": float,
                    "method": str,
                    "schedule": str,
                    "epoch_fraction": float,
                }
                | {"seed": int, "epochs": float, "lr": float}
                | MEASURED
            ],
        },
        models=("small_resnet", "small_resnet_1", "small_resnet_2", "resnet18"),
        timed=False,
    ),
    "sparse_vs_dense": Experiment(
        "sparse matrix products compared with dense ones (minutes)",
        HEADER
        | {
            "device": str,
            "seed": int,
            "rooflines": [{"dtype": str, "bandwidth": float, "rate": float}],
            "zeros": [{"dtype": str, "size": int} | TIMED],
            "points": [
                PRODUCT
                | {"format": str, "sparsity": float, "bytes": int, "convert": float, "error": float}
                | TIMED
            ],
            "refused": [PRODUCT | {"format": str, "why": str}],
        },
    ),
    "structured_speedup": Experiment(
        "the speed of layers and networks with fewer channels (minutes)",
        HEADER
        | TRAINED
        | {
            "device": str,
            "rooflines": [{"dtype": str, "bandwidth": float, "rate": float}],
            "points": [
                {"part": str, "removed": float, "batch": int, "dtype": str}
                | {"parameters": int, "macs": int, "predicted": float}
                | TIMED
            ],
            "staircase": [{"channels": int, "batch": int, "dtype": str, "macs": int} | TIMED],
        },
        models=("resnet18",),
    ),
    "compression": Experiment(
        "a network pruned, quantized and packed (an hour)",
        HEADER
        | TRAINED
        | DEPLOYED
        | {"networks": [NETWORK | {"fake_quantized": bool, "channels": float}]},
        models=("resnet18",),
        undivided="its networks are made from one another",
    ),
    "transformer": Experiment(
        "a transformer pruned, quantized and packed (an hour)",
        HEADER
        | TRAINED
        | DEPLOYED
        | {
            "recipe": {"epochs": float, "lr": float},
            "layers": [{"layer": int} | CHANGE],
            "heads": [{"layer": int, "head": int} | CHANGE],
            "one_shot": [{"method": str, "pattern": str} | MEASURED],
            "retrained": [{"method": str, "pattern": str, "bytes": int} | MEASURED],
            "networks": [
                NETWORK
                | {"layers": int, "heads": float, "neurons": float}
                | {"distilled": bool, "before": MEASURED}
            ],
            "operators": [{"operator": str, "runs_in": str, "count": int}],
        },
        models=("minilm",),
        undivided="its networks are made from one another",
    ),
    "mixed": Experiment(
        "convolutions and attention, each pruned in every way (an hour)",
        HEADER
        | TRAINED
        | DEPLOYED
        | {
            "recipe": {"epochs": float, "lr": float, "epoch_fraction": float},
            "networks": [
                {"name": str, "convolutions": str, "attention": str, "amount": float, "seed": int}
                | {"gone": {"convolutions": float, "attention": float}}
                | {"before": MEASURED, "recalibrated": MEASURED, "after": MEASURED}
            ],
            "parts": [{"network": str, "variant": str, "one thread": TIMED, "two threads": TIMED}],
        },
        models=("conv_attention",),
        undivided="its networks are timed alternately",
    ),
    "distillation": Experiment(
        "a small network, trained in four ways (an hour)",
        HEADER
        | TRAINED
        | {
            "recipe": {"epochs": float, "lr": float, "removed": float},
            "cost": {
                "ratio": float,
                "interval": "range",
                "rounds": int,
                "labels": float,  # seconds per epoch, like the next field
                "teacher": float,
            },
            "points": [
                {"method": str, "time_fraction": float, "seed": int, "epochs": float} | MEASURED
            ],
            "deployed": DEPLOYED["points"],
            "packed": DEPLOYED["packed"],
        },
        models=("resnet18",),
    ),
}


def module_of(name: str) -> ModuleType:
    """The module of the experiment ``name``."""
    return import_module(f"course_lib.experiments.{name}")

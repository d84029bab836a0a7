"""Whoever measures, copies or saves a network leaves it bit for bit as it was, also after an error.

Every public function that takes a network is in one of the tables, or a test says that it is not.
"""

import contextlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import nn

from course_lib.deployment import pruned_file, quantization, sparse, storage
from course_lib.measuring import cost, timing
from course_lib.pruning import channels, encoders, graph, masks, oneshot, surgery, weights
from course_lib.pruning.graph import Graph

MODULES = [masks, weights, channels, graph, surgery, oneshot, sparse, storage, pruned_file]
MODULES += [quantization, cost, timing, encoders]

#: These change a network on purpose, or only look at the class of a layer.
ON_PURPOSE = {"masks.apply_masks", "masks.enforce_masks", "surgery.zero_readers"}
ON_PURPOSE |= {"weights.rows", "weights.is_conv1d"}


class Given(NamedTuple):
    """What a function is called with."""

    model: nn.Module
    x: torch.Tensor
    labels: torch.Tensor
    graph: Graph
    folder: Path

    @property
    def pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(self.x, self.labels)]

    @property
    def group(self) -> str:
        return next(iter(self.graph.free))


def convolutional() -> tuple[nn.Module, torch.Tensor]:
    """BatchNorm, whose statistics a run in training mode changes, and dropout, which draws."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(8, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.Flatten(),
        nn.Linear(8 * 36, 4),
    )
    return model, torch.randn(4, 3, 8, 8)


def attentive() -> tuple[nn.Module, torch.Tensor]:
    from torchvision.models import VisionTransformer

    return VisionTransformer(8, 4, 2, 2, 8, 6, dropout=0.2, num_classes=4), torch.randn(4, 3, 8, 8)


NETWORKS = {"convolutional": convolutional, "attentive": attentive}


def pruned(given: Given) -> dict[str, list[int]]:
    return {given.group: [0]}


CALLS: dict[str, Callable[[Given], object]] = {
    "masks.sparsity": lambda g: masks.sparsity(g.model),
    "masks.layer_sparsity": lambda g: masks.layer_sparsity(g.model),
    "masks.random_scores": lambda g: masks.random_scores(g.model, 0),
    "masks.wanda_scores": lambda g: masks.wanda_scores(g.model, [g.x]),
    "masks.input_norms": lambda g: masks.input_norms(g.model, [g.x]),
    "masks.global_masks": lambda g: masks.global_masks(g.model, 0.5),
    "masks.layer_masks": lambda g: masks.layer_masks(g.model, 0.5),
    "masks.output_masks": lambda g: masks.output_masks(g.model, 0.5),
    "masks.nm_masks": lambda g: masks.nm_masks(g.model, 2, 4),
    "masks.pruned_copy": lambda g: masks.pruned_copy(g.model, masks.global_masks(g.model, 0.5)),
    "masks.masks_of": lambda g: masks.masks_of(g.model),
    "weights.coverage": lambda g: str(weights.coverage(g.model)),
    "weights.prunable": lambda g: [*weights.prunable(g.model)],
    "weights.embeddings": lambda g: [*weights.embeddings(g.model)],
    "weights.owners": lambda g: [*weights.owners(g.model)],
    "weights.effective": lambda g: [*weights.effective(g.model)],
    "channels.l1": lambda g: channels.l1(g.model, g.graph),
    "channels.l2": lambda g: channels.l2(g.model, g.graph),
    "channels.batchnorm_scale": lambda g: channels.batchnorm_scale(g.model, g.graph),
    "channels.taylor": lambda g: channels.taylor(g.model, g.graph, g.pairs),
    "channels.ablation_losses": lambda g: channels.ablation_losses(
        g.model, g.graph, g.group, g.pairs
    ),
    "channels.loss_changes": lambda g: channels.loss_changes(g.model, g.graph, g.group, g.pairs),
    "channels.readers_zeroed": lambda g: _entered(
        channels.readers_zeroed(g.model, g.graph, torch.tensor(0)), g
    ),
    "graph.trace": lambda g: graph.trace(g.model, g.x),
    "surgery.shrink": lambda g: surgery.shrink(g.model, g.x, 0.5),
    "surgery.prune": lambda g: surgery.prune(g.model, g.graph, pruned(g)),
    "surgery.remove": lambda g: surgery.remove(g.model, surgery.plan(g.graph, pruned(g))),
    "surgery.save": lambda g: surgery.save(g.model, g.folder / "saved"),
    "surgery.load": lambda g: surgery.load(g.model, _saved(surgery, g)),
    "oneshot.hessians": lambda g: oneshot.hessians(g.model, [g.x]),
    "oneshot.prune": lambda g: oneshot.prune(g.model, [g.x], oneshot.sparsegpt),
    "sparse.converted": lambda g: sparse.converted(g.model, g.x, rounds=2, seconds=0.01)[0],
    "sparse.chosen": lambda g: sparse.chosen(_linear(g.model), _wide(g), rounds=2, seconds=0.01)[0],
    "quantization.export": lambda g: quantization.export(g.model, g.folder / "it.onnx", g.x),
    "pruned_file.save": lambda g: pruned_file.save(g.model, "it", g.folder / "it.pruned"),
    "pruned_file.rebuilt": lambda g: pruned_file.rebuilt(g.model, g.model.state_dict()),
    "cost.macs": lambda g: cost.macs(g.model, g.x),
    "cost.stored_bytes": lambda g: cost.stored_bytes(g.model),
    "cost.work": lambda g: cost.work(g.model, g.x),
    "encoders.layers": lambda g: encoders.layers(g.model),
    "encoders.encoder_graph": lambda g: encoders.encoder_graph(g.model),
    "encoders.l1": lambda g: encoders.l1(g.model, encoders.encoder_graph(g.model)),
    "encoders.ablation": lambda g: encoders.ablation(
        g.model, encoders.encoder_graph(g.model), "0.heads", lambda model: 0.0
    ),
    "encoders.prune": lambda g: encoders.prune(g.model, {"0.heads": [0]}),
    "encoders.save": lambda g: encoders.save(g.model, g.folder / "saved"),
    "encoders.load": lambda g: encoders.load(g.model, _saved(encoders, g)),
}

#: These are of the encoders of transformers; the others are tried on both networks.
OF_ENCODERS = {name for name in CALLS if name.startswith("encoders.")}


def _entered(context: contextlib.AbstractContextManager, given: Given) -> None:
    with context:
        if not given.x.isfinite().all():
            raise ValueError


def _saved(module, given: Given) -> Path:
    module.save(given.model, given.folder / "saved")
    return given.folder / "saved"


def _linear(model: nn.Module) -> nn.Linear:
    return [layer for layer in model.modules() if isinstance(layer, nn.Linear)][-1]


def _wide(given: Given) -> torch.Tensor:
    return given.x.flatten()[: _linear(given.model).in_features][None].expand(4, -1)


def _number_of_elements(tensor: torch.Tensor) -> bytes:
    return tensor.detach().clone().contiguous().view(-1).numpy().tobytes()


def of_tensor(tensor: torch.Tensor | None) -> object:
    """All that can change about a parameter or a buffer."""
    if tensor is None:
        return None
    hooks = (tensor._backward_hooks, getattr(tensor, "_post_accumulate_grad_hooks", None))
    return (
        id(tensor),
        tensor.data_ptr(),
        tensor.stride(),
        _number_of_elements(tensor),
        tensor.requires_grad,
        tensor.grad_fn,
        [dict(each or {}) for each in hooks],
        of_tensor(tensor.grad),
        sorted(vars(tensor)),
    )


def of_layer(layer: nn.Module) -> object:
    """All that can change about a layer itself."""
    own = {
        name: (id(value), dict(value) if isinstance(value, dict) else None)
        for name, value in vars(layer).items()
        if name not in ("_parameters", "_buffers", "training")
    }
    tensors = {**layer._parameters, **layer._buffers}
    values = {name: of_tensor(tensor) for name, tensor in tensors.items()}
    return type(layer), layer.training, own, values


def fingerprint(model: nn.Module) -> dict[str, object]:
    found = {name: of_layer(layer) for name, layer in model.named_modules()}
    return found | {"random numbers": torch.get_rng_state().numpy().tobytes()}


def changed(model: nn.Module, before: dict[str, object]) -> list[str]:
    """The layers that are not as they were."""
    after = fingerprint(model)
    return [name for name in before.keys() | after.keys() if after.get(name) != before.get(name)]


def memory(model: nn.Module) -> set[int]:
    tensors = [*model.parameters(), *model.buffers()]
    tensors += [each.grad for each in model.parameters() if each.grad is not None]
    dense = [each for each in tensors if each.layout is torch.strided and each.numel()]
    return {each.untyped_storage().data_ptr() for each in dense}


@pytest.fixture(scope="module")
def graphs() -> dict[str, Graph]:
    """The dependency graph of each network."""
    found = {}
    for name, build in NETWORKS.items():
        model, x = build()
        found[name] = graph.trace(model.eval(), x)
    return found


def prepared(name: str, training: bool, graphs: dict[str, Graph], folder: Path) -> Given:
    """A network that somebody is at work with: gradients, a frozen weight, modes that differ."""
    torch.manual_seed(0)
    model, x = NETWORKS[name]()
    labels = torch.arange(4)
    nn.functional.cross_entropy(model(x), labels).backward()
    model.train(training)
    _linear(model).train(not training)
    _linear(model).bias.requires_grad_(False)
    model.note = ["mine"]
    return Given(model, x, labels, graphs[name], folder)


def _marks(call: str, name: str) -> list[pytest.MarkDecorator]:
    exported = (call, name) == ("quantization.export", "attentive")  # takes a second each
    return [pytest.mark.slow] * exported


def cases(calls: list[str], *modes: bool) -> list:
    """Each function with each network that it is for, in evaluation or in training mode."""
    return [
        pytest.param(call, name, training, marks=_marks(call, name))
        for call in calls
        for name in NETWORKS
        for training in modes
        if name == "attentive" or call not in OF_ENCODERS
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("call", "name", "training"), cases([*CALLS], False, True))
def test_the_network_is_left_as_it_was_and_a_copy_shares_nothing(
    call, name, training, graphs, tmp_path
):
    given = prepared(name, training, graphs, tmp_path)
    before = fingerprint(given.model)
    found = None
    try:
        found = CALLS[call](given)
    except ValueError:  # refused
        assert training or name == "attentive"
    assert not changed(given.model, before)
    if isinstance(found, nn.Module):
        assert not memory(found) & memory(given.model)


#: The functions that run the network.
MEASURING = [
    *("masks.wanda_scores", "masks.input_norms", "channels.taylor", "channels.ablation_losses"),
    *(
        "channels.readers_zeroed",
        "graph.trace",
        "surgery.shrink",
        "oneshot.hessians",
        "oneshot.prune",
    ),
    *("sparse.converted", "quantization.export", "cost.macs", "cost.work"),
]

#: Inputs that make a function fail, at the first layer or at the last.
WRONG = {
    "channels": lambda x: x[:, :2],
    "size": lambda x: x[..., :7],
    "NaN": lambda x: x * torch.nan,
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("call", "name", "training"), cases(MEASURING, True))
def test_the_network_is_left_as_it_was_where_a_function_fails(
    call, name, training, wrong, graphs, tmp_path
):
    given = prepared(name, training, graphs, tmp_path)
    given = given._replace(x=WRONG[wrong](given.x))
    before = fingerprint(given.model)
    with contextlib.suppress(Exception):
        CALLS[call](given)
    assert not changed(given.model, before)


def test_no_function_is_forgotten():
    public = {
        f"{module.__name__.rpartition('.')[2]}.{name}"
        for module in MODULES
        for name, function in vars(module).items()
        if _takes_a_network(module.__name__, name, function)
    }
    assert public - CALLS.keys() - ON_PURPOSE == set()


def _takes_a_network(module: str, name: str, function: object) -> bool:
    if name.startswith("_") or not callable(function) or isinstance(function, type):
        return False
    if getattr(function, "__module__", None) != module:
        return False
    return "Module" in str(
        [each.annotation for each in inspect.signature(function).parameters.values()]
    )

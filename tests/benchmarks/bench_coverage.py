"""Which classification models of torchvision and timm can be pruned, beside torch-pruning.

Each model gets random weights in which nothing hides (no parameter is constant, as those of a fresh
BatchNorm are) and is asked for half of its channels, the lowest by L1 norm. It passes when

- the pruned network computes what the whole one does once the weights that read the removed
  channels are zero (float64, relative error below 1e-9), auxiliary heads included; which weights
  these are is found here from what became smaller, and not asked of the library;
- it has fewer parameters and fewer multiply-accumulates (MACs);
- every parameter that is left gets a gradient;
- saved and loaded into a freshly built model, without pickle, it gives the same output.

torch-pruning gets the same model and its defaults, without the hints that it takes for some
families; it passes when its result runs and has fewer parameters. Seconds are those of pruning:
from the whole network to the small one, after a warm-up. Every model and side has a process of its
own, of limited memory and time, and the sides alternate.

    python tests/benchmarks/bench_coverage.py [MODEL ...] [--memory 6] [--minutes 5]
"""

import argparse
import contextlib
import gc
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the course, installed or not

import torch
import torchvision
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map_only

from course_lib.measuring import cost
from course_lib.pruning import channels, surgery
from course_lib.pruning.graph import Graph, trace

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
RATIO = 0.5
TOLERANCE = 1e-9
CLASSES = 1000
#: How a model does not pass: refused, and the layer named; refused only; an error, or wrong.
WAYS = ("refused", "without a place", "wrong")
#: What the table shows of the reason why a group is left alone.
REASONS = ("output", "LayerNorm", "fixed size", "told apart")
#: Small members of timm's families, most of them with layers or code of timm's own.
TIMM = """
    resnet18 resnet26d seresnet18 resnext26ts ecaresnet26t skresnet18 resnetblur18 resnetrs50
    resnetv2_18 gcresnext26ts res2net50_26w_4s resnest14d regnetx_002 regnety_002 regnetz_b16
    densenet121 dla34 dpn68 vgg11_bn inception_v3 inception_v4 inception_resnet_v2 xception41
    legacy_xception efficientnet_b0 tf_efficientnet_b0 efficientnet_lite0 tf_efficientnetv2_b0
    mobilenetv1_100 mobilenetv2_050 mobilenetv3_small_050 mobilenetv4_conv_small_050
    mnasnet_small fbnetc_100 semnasnet_075 mixnet_s lcnet_050 tinynet_e ghostnet_050
    hardcorenas_a rexnet_100 repghostnet_050 mobileone_s0 repvgg_a0 selecsls42 cspresnet50
    cspdarknet53 hrnet_w18_small hgnet_tiny ese_vovnet19b_dw tresnet_m starnet_s050
    convnext_atto inception_next_atto convmixer_768_32 vit_tiny_patch16_224
    deit_tiny_distilled_patch16_224 deit3_small_patch16_224 beit_base_patch16_224 cait_xxs24_224
    swin_tiny_patch4_window7_224 mixer_s32_224 resmlp_12_224 poolformer_s12 pvt_v2_b0 levit_128s
    mobilevit_xxs edgenext_xx_small fastvit_t8 nf_resnet26 visformer_tiny
""".split()  # noqa: SIM905
SIDES = ("course_lib", "torch-pruning")


class Failed(Exception):
    """A model did not pass; the message says what it did instead."""


# --- a model in which nothing hides -------------------------------------------------------------


def names() -> list[str]:
    """Every classification model of torchvision, and those of timm, which begin with "timm/"."""
    ours = torchvision.models.list_models(module=torchvision.models)
    return ours + [f"timm/{name}" for name in TIMM]


def network(name: str, images: torch.Tensor) -> nn.Module:
    """The model ``name`` for inference, its weights random and none of them constant."""
    torch.manual_seed(0)
    return unhide(fresh(name), images)


def fresh(name: str) -> nn.Module:
    """The model ``name`` as its package builds it."""
    if name.startswith("timm/"):
        import timm

        # Some of timm's models drop features at random by themselves, in no layer.
        return timm.create_model(name.removeprefix("timm/"), drop_rate=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of googlenet and inception_v3
        return torchvision.models.get_model(name)


@torch.no_grad()
def unhide(model: nn.Module, images: torch.Tensor) -> nn.Module:
    """Draw every constant parameter anew, around 1, or 0 where it is 0; in place.

    A layer scale of 1e-6 or a head of zeros would hide whatever goes wrong before it. So would a
    BatchNorm whose statistics do not fit: these are taken from ``images``.
    """
    for parameter in model.parameters():
        if parameter.min() == parameter.max():
            centre = 0 if parameter.max() == 0 else 1
            parameter.uniform_(centre - 0.3, centre + 0.3)
    settle(model)
    norms = [layer for layer in model.modules() if isinstance(layer, NORMS)]
    for norm in norms:
        norm.train().momentum = 1
    model(images)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def settle(model: nn.Module) -> None:
    """Auxiliary heads run, as in training, but nothing is left to chance."""
    model.train()
    for module in model.modules():
        if next(module.children(), None) is None or isinstance(module, NORMS):
            module.eval()


def pictures(name: str, side: int | None = None) -> torch.Tensor:
    """Two random pictures of the size that the model ``name`` is made for, or of another one."""
    if name.startswith("timm/"):
        import timm

        side = side or timm.get_pretrained_cfg(name.removeprefix("timm/")).input_size[-1]
    side = side or (299 if name == "inception_v3" else 224)
    return torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))


# --- what a pruned network has to do ------------------------------------------------------------


class InDouble(TorchFunctionMode):
    """Every operation on float32 is done in float64, without a second copy of the network."""

    def __torch_function__(self, operation, types, args=(), kwargs=None):
        double = tree_map_only(torch.Tensor, self.double, (args, kwargs or {}))
        return operation(*double[0], **double[1])

    @staticmethod
    def double(tensor: torch.Tensor) -> torch.Tensor:
        return tensor.double() if tensor.dtype == torch.float32 else tensor


@torch.no_grad()
def silence(model: nn.Module, plan: surgery.Plan) -> nn.Module:
    """Set to zero, in place, the columns that ``plan`` takes out of the matrices of ``model``.

    A layer's matrix has a column for each input: dimension 1, or 0 where it is transposed. A
    grouped convolution has none for those of other groups, so it loses outputs and no columns.
    """
    for name, kept in plan.items():
        owner, _, own = name.rpartition(".")
        layer, weight = model.get_submodule(owner), model.state_dict()[name]
        dim = 0 if getattr(layer, "transposed", False) else 1
        if own.endswith("weight") and getattr(layer, "groups", 1) == 1 and dim in kept:
            gone = torch.ones(weight.shape[dim], dtype=torch.bool)
            gone[kept[dim]] = False
            weight.index_fill_(dim, gone.nonzero().squeeze(1), 0)
    return model


@torch.no_grad()
def outputs(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """What all heads of ``model`` compute, in float64, side by side."""
    settle(model)
    with InDouble():
        found = model(images)
    model.eval()
    found = torch.cat([found] if isinstance(found, torch.Tensor) else [*found], dim=1)
    if found.dtype != torch.float64:
        raise TypeError(f"{type(model).__name__} computes in {found.dtype}.")
    return found


def check_equal(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest value.

    Raises:
        Failed: it is too large, or ``expected`` shows nothing, as it is the same for any picture.
    """
    largest = expected.abs().max()
    seen = float((expected[0] - expected[1]).abs().max() / largest)
    if not seen > 1000 * TOLERANCE:
        raise Failed(f"two pictures give the same output, to {seen:.0e}")
    error = float((found - expected).abs().max() / largest)
    if not error < TOLERANCE:
        raise Failed(f"relative error {error:.0e}")
    return error


def check_smaller(before: tuple[int, int], after: tuple[int, int]) -> None:
    """Fewer parameters and fewer MACs, or :class:`Failed`."""
    for what, whole, small in zip(("parameters", "MACs"), before, after, strict=True):
        if small >= whole:
            raise Failed(f"{small} of {whole} {what}")


def check_trains(model: nn.Module, images: torch.Tensor) -> None:
    """Every parameter gets a finite gradient in training mode, or :class:`Failed`."""
    model.train()
    found = model(images)
    sum(head.sum() for head in ([found] if isinstance(found, torch.Tensor) else found)).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is None or not parameter.grad.isfinite().all():
            raise Failed(f"no finite gradient for {name}")


def check_loads(name: str, path: Path, images: torch.Tensor, expected: torch.Tensor) -> None:
    """The file at ``path`` makes a fresh model give the ``expected`` output, or :class:`Failed`."""
    empty = fresh(name)
    for tensor in empty.state_dict().values():  # whatever it holds has to come from the file
        tensor.zero_()
    loaded = surgery.load(empty, path).eval()
    with torch.no_grad():
        if not torch.equal(loaded(images), expected):
            raise Failed("another output after saving and loading")


def size(model: nn.Module, images: torch.Tensor) -> tuple[int, int]:
    """Parameters, and MACs for one picture."""
    return parameters(model), cost.macs(model.eval(), images[:1])


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- one measurement, in its own process --------------------------------------------------------


def prune_ours(model: nn.Module, image: torch.Tensor) -> tuple[nn.Module, Graph]:
    """What the course does: follow the network, score its channels, choose, and remove them."""
    graph = trace(model, image)
    if not graph.free:
        raise ValueError(f"No channel can be removed exactly: {graph}")
    scores = channels.l1(model, graph)
    removed = channels.spared(graph, scores, channels.lowest(scores, RATIO))
    return surgery.prune(model, graph, removed), graph


def measure_ours(name: str, side: int | None = None) -> dict:
    """Prune the model ``name`` and hold it against what a pruned network has to do.

    The steps are in an order that never needs two whole networks in memory.

    Raises:
        Failed: it does not.
    """
    images = pictures(name, side)
    model = network(name, images)
    before = size(model, images)
    start = time.perf_counter()
    smaller, graph = prune_ours(model, images[:1])
    seconds = time.perf_counter() - start
    after = size(smaller, images)
    check_smaller(before, after)
    expected = outputs(silence(model, smaller.pruning_plan), images)
    del model
    gc.collect()  # torch.fx leaves cycles
    error = check_equal(outputs(smaller, images), expected)
    with torch.no_grad():
        output = smaller(images)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pruned.safetensors"
        surgery.save(smaller, path)
        check_trains(smaller, images)
        del smaller
        gc.collect()
        check_loads(name, path, images, output)
    return {
        "seconds": seconds,
        "error": error,
        "free": len(graph.free),
        "left": reasons(graph),
        "before": before,
        "after": after,
    }


def reasons(graph: Graph) -> dict[str, int]:
    """How many groups are left alone, by reason; the name of the layer is left out."""
    whole = [group.reason for group in graph.groups.values() if group.reason]
    found = [next((word for word in REASONS if word in reason), reason) for reason in whole]
    return Counter(found)


def measure_theirs(name: str) -> dict:
    """What torch-pruning does with the model ``name``, by default but for the last layer.

    Raises:
        Failed: the result does not run, or has as many parameters as before.
    """
    images = pictures(name)
    model = network(name, images)
    before = parameters(model)
    start = time.perf_counter()
    prune_theirs(model, images[:1])
    seconds = time.perf_counter() - start
    with torch.no_grad():
        logits = model(images)
    if logits.shape != (len(images), CLASSES):
        raise Failed(f"output of the shape {tuple(logits.shape)}")
    after = parameters(model)
    if after >= before:
        raise Failed("nothing removed")
    return {"seconds": seconds, "before": before, "after": after}


def prune_theirs(model: nn.Module, image: torch.Tensor) -> None:
    """What torch-pruning does, in place."""
    import torch_pruning

    last = [
        layer
        for layer in model.modules()
        if CLASSES in (getattr(layer, "out_features", 0), getattr(layer, "out_channels", 0))
    ]
    torch_pruning.pruner.BasePruner(
        model,
        image,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=1),
        pruning_ratio=RATIO,
        ignored_layers=last,
    ).step()


def warm_up(side: str) -> None:
    """What happens once in a process is not counted."""
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3)).eval()
    {"course_lib": prune_ours, "torch-pruning": prune_theirs}[side](model, torch.randn(1, 3, 8, 8))


def measure(side: str, name: str) -> dict:
    """The measurement of one model on one side, or how it failed."""
    warm_up(side)
    try:
        return measure_ours(name) if side == "course_lib" else measure_theirs(name)
    except Exception as error:
        kind = "" if isinstance(error, Failed) else f"{type(error).__name__}: "
        text = " ".join(f"{kind}{error}".split())
        return {"failed": text, "how": how(error, name)}


def how(error: Exception, name: str) -> str:
    """In which of the :data:`WAYS` the model ``name`` does not pass."""
    if isinstance(error, Failed) or not isinstance(error, ValueError):
        return "wrong"
    places = ["the network itself", *(layer for layer, _ in fresh(name).named_modules() if layer)]
    return "refused" if any(place in str(error) for place in places) else "without a place"


# --- the comparison -----------------------------------------------------------------------------


def in_own_process(side: str, name: str, memory: float, seconds: float) -> dict:
    """Run :func:`measure` in a fresh process that may take ``memory`` GB and ``seconds``."""
    command = [sys.executable, __file__, "--measure", side, name]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, stdout=out, stderr=errors, text=True)
        end, peak = time.monotonic() + seconds, 0
        try:
            while process.poll() is None:
                with contextlib.suppress(psutil.Error):  # it ended just now
                    peak = max(peak, psutil.Process(process.pid).memory_info().rss)
                if peak > memory * 1e9:
                    return {"failed": f"takes more than {memory:g} GB"}
                if time.monotonic() > end:
                    return {"failed": f"takes more than {seconds / 60:g} minutes"}
                time.sleep(0.05)
        finally:
            process.kill()
            process.wait()
        out.seek(0)
        errors.seek(0)
        lines = out.read().splitlines() or [""]
        if process.returncode or not lines[-1].startswith("{"):
            last = (errors.read().splitlines() or ["no message"])[-1]
            return {"failed": f"exit code {process.returncode}: {last}"}
        return {**json.loads(lines[-1]), "peak": peak}


def ours_as_text(result: dict) -> str:
    """One half of a row."""
    if "failed" in result:
        return f"FAILED: {result['failed']}"
    (whole, macs), (small, fewer) = result["before"], result["after"]
    left = ", ".join(f"{count} {reason}" for reason, count in sorted(result["left"].items()))
    return (
        f"{result['free']:>5}  {left:<24}"
        f"{whole / 1e6:>9.1f}{small / 1e6:>7.1f}{macs / 1e9:>9.2f}{fewer / 1e9:>7.2f}"
        f"{result['error']:>9.0e}{result['seconds']:>7.2f}{result['peak'] / 1e9:>6.1f}"
    )


def theirs_as_text(result: dict) -> str:
    """The other half of a row."""
    if "failed" in result:
        return f"{'failed':>7}{'':>8}  {result['failed'][:60]}"
    return f"{result['after'] / 1e6:>7.1f}{result['seconds']:>8.2f}"


HEADER = (
    f"{'':<36}{'groups pruned,':>15}{'M parameters':>32}{'G MACs':>16}{'error':>9}{'s':>7}{'GB':>6}"
    f" |{'torch-pruning':>15}\n"
    f"{'model':<36}{'and left alone':>15}{'before':>25}{'after':>7}{'before':>9}{'after':>7}"
    f"{'':>22} |{'after':>7}{'s':>8}"
)


def compare(chosen: list[str], memory: float, seconds: float) -> dict[str, dict[str, dict]]:
    """The results of both sides, model by model; each row is printed as soon as it is there."""
    print(HEADER, flush=True)
    results = {}
    for name in chosen:
        results[name] = {side: in_own_process(side, name, memory, seconds) for side in SIDES}
        ours, theirs = (results[name][side] for side in SIDES)
        print(f"{name:<36}{ours_as_text(ours):<85} |{theirs_as_text(theirs)}", flush=True)
    return results


def report(results: dict[str, dict[str, dict]]) -> None:
    """Print why groups are left alone, which models fail, and the totals."""
    passed = {
        side: [name for name, both in results.items() if "failed" not in both[side]]
        for side in SIDES
    }
    print()
    for name, both in results.items():
        if name not in passed["course_lib"]:
            print(f"{name} does not pass: {both['course_lib']['failed']}")
    shared = [name for name in passed["course_lib"] if name in passed["torch-pruning"]]
    ours, theirs = (sum(results[name][side]["seconds"] for name in shared) for side in SIDES)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(
        f"Seconds of pruning, over the {len(shared)} models that both manage: "
        f"course_lib {ours:.1f}, torch-pruning {theirs:.1f}; the ratio is that of these totals."
    )
    ratio = f"{ours / theirs:.2f}" if shared else "none"
    print(f"time ratio {ratio}")
    for package in ("torchvision", "timm"):
        own = {
            name: both
            for name, both in results.items()
            if name.startswith("timm/") == (package == "timm")
        }
        theirs = sum("failed" not in both["torch-pruning"] for both in own.values())
        print(f"{package}: {totals(own)}; torch-pruning {theirs} of {len(own)}")


def totals(results: dict[str, dict[str, dict]]) -> str:
    """How many of the models pass, and how the others do not."""
    ours = [both["course_lib"] for both in results.values()]
    failed = Counter(result.get("how", "wrong") for result in ours if "failed" in result)
    others = ", ".join(f"{failed[way]} {way}" for way in WAYS)
    return f"{len(ours) - failed.total()} of {len(ours)} pruned and equal, {others}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="such as resnet18 or timm/vit_tiny_patch16_224")
    parser.add_argument("--memory", type=float, default=6, help="GB that a process may take")
    parser.add_argument("--minutes", type=float, default=5, help="that a process may take")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "MODEL"), help="one only")
    chosen = parser.parse_args()
    if chosen.measure:
        print(json.dumps(measure(*chosen.measure)))
        return
    if importlib.util.find_spec("torch_pruning") is None:
        sys.exit("The package torch-pruning is missing; make coverage installs it.")
    unknown = set(chosen.models) - set(names())
    if unknown:
        sys.exit(f"There is no {', '.join(sorted(unknown))}; there are: {', '.join(names())}")
    results = compare(chosen.models or names(), chosen.memory, 60 * chosen.minutes)
    report(results)


if __name__ == "__main__":
    main()

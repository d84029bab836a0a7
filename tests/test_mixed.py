"""Each part is pruned in its own way, as much as is asked; and an interrupted recording goes on."""

import copy
import json

import pytest
import torch
from interruptions import each, interrupt

from course_lib.deployment import pruned_file
from course_lib.deployment.forms import FORMS
from course_lib.experiments import mixed, recordings
from course_lib.experiments.mixed import AMOUNTS, PARTS, PLAN, WAYS, Variant, Way
from course_lib.experiments.recorder import record
from course_lib.experiments.recordings import network_file
from course_lib.measuring.quality import Evaluation
from course_lib.networks import models
from course_lib.networks.data import Images, Splits
from course_lib.networks.models import EXAMPLE
from course_lib.pruning import masks, surgery
from course_lib.pruning.graph import trace
from course_lib.teaching.exercises.lesson09 import FACTOR_NEEDED, LEFT_OF_BLOCK


@pytest.fixture(scope="module")
def pictures() -> Splits:
    images = torch.randn(256, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    part = Images(images, torch.arange(256) % 10)
    return Splits(part, part, part)


@pytest.fixture(scope="module")
def network():
    return models.load_trained("conv_attention")


@pytest.fixture(scope="module")
def graph(network):
    return trace(network, EXAMPLE)


def test_all_ways_are_planned_and_some_again_with_other_seeds():
    assert len(set(WAYS.values())) == 4
    assert {cut.way for cut in PLAN.values()} == {*WAYS.values(), Way("structured", "2:4")}
    assert set(mixed.KEPT) <= PLAN.keys() and {*mixed.TAKEN_APART} <= {"dense", *PLAN}
    for name, cut in mixed.AGAIN.items():
        assert cut._replace(seed=0) == PLAN[name.partition(",")[0]] and cut.seed > 0


def test_parts_are_all_that_is_prunable_but_the_head(network):
    first, second = (mixed.weights_of(network, part).keys() for part in PARTS)
    assert not first & second
    assert masks.prunable(network).keys() - first - second == {"head.weight"}


# --- what goes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("amount", "left"), [(0.0, (4, 192)), (0.5, (2, 96)), (0.75, (1, 48)), (0.875, (1, 1))]
)
def test_neurons_make_up_for_whole_heads(amount, left):
    assert mixed.heads_and_neurons_left(amount, 4, 9216, 192, 192) == left


def test_what_heads_leave_too_much_neurons_leave_less():
    assert mixed.heads_and_neurons_left(0.5, 3, 10, 30, 1) == (2, 10)
    assert mixed.heads_and_neurons_left(0.6, 3, 10, 30, 1) == (1, 14)


@pytest.mark.parametrize(
    ("exercise", "ours"),
    [(LEFT_OF_BLOCK, mixed.heads_and_neurons_left), (FACTOR_NEEDED, mixed.factor_needed)],
    ids=lambda one: getattr(one, "id", None),
)
def test_the_learner_builds_what_the_library_has(exercise, ours):
    for case in exercise.cases():
        assert exercise.reference(*case) == ours(*case)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_structured_part_loses_about_the_amount_and_keeps_multiples_of_eight(
    network, graph, part, amount
):
    removed = mixed.removed(network, graph, part, amount)
    plan = surgery.plan(graph, removed)
    for other in PARTS:
        found = mixed.share_gone(mixed.weights_of(network, other), plan)
        assert found == pytest.approx(amount if other == part else 0, abs=0.025)
    for group, places in removed.items():
        left = len(graph.groups[group].channels) - len(places)
        assert left % mixed.MULTIPLE == 0 or group.endswith("heads")


@pytest.mark.slow
@pytest.mark.parametrize("amount", AMOUNTS)
def test_both_ways_take_as_many_weights_from_every_layer(network, amount):
    both = {
        how: mixed.prune(network, Variant(Way(how, how), amount))[0]
        for how in ("structured", "unstructured")
    }
    for part in PARTS:
        left = {
            how: {
                name: int((weight != 0).sum())
                for name, weight in mixed.weights_of(model, part).items()
            }
            for how, model in both.items()
        }
        assert left["structured"] == left["unstructured"]
    wholes = mixed.weights_of(network, "convolutions")
    assert mixed.weights_of(both["unstructured"], "convolutions").keys() == wholes.keys()


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_each_part_loses_the_amount_in_its_own_way(network, way):
    cut = PLAN[f"{way} 75"]
    smaller, kept = mixed.prune(network, cut)
    for part, how in cut.way._asdict().items():
        weights = mixed.weights_of(smaller, part)
        zeros = sum(int((weight == 0).sum()) for weight in weights.values())
        assert (zeros > 0) == (how == "unstructured") == (weights.keys() <= kept.keys())
    assert mixed.gone(smaller, network) == pytest.approx(dict.fromkeys(PARTS, 0.75), abs=0.025)


def test_the_smallest_weights_of_every_layer_go(network):
    _, kept = mixed.prune(network, PLAN["reverse 50"])
    for name, weight in mixed.weights_of(network, "convolutions").items():
        left, gone = weight[kept[name]].abs(), weight[~kept[name]].abs()
        assert not len(gone) or gone.max() <= left.min()


@pytest.mark.slow
def test_two_of_four_weights_of_attention_go(network):
    smaller, _ = mixed.prune(network, PLAN["two of four"])
    for weight in mixed.weights_of(smaller, "attention").values():
        assert ((weight.unflatten(1, (-1, 4)) != 0).sum(2) == 2).all()


@pytest.mark.slow
def test_a_removal_is_exact(network, graph, pictures):
    cut = PLAN["both structured 75"]
    parts = (mixed.removed(network, graph, part, cut.amount) for part in PARTS)
    removed = {group: places for part in parts for group, places in part.items()}
    silent = surgery.zero_readers(copy.deepcopy(network), graph, removed)
    smaller, _ = mixed.prune(network, cut)
    images = pictures.test.images[:4]
    torch.testing.assert_close(smaller(images), silent(images), atol=1e-4, rtol=1e-4)


# --- making a network ---------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_trains_what_is_left_and_its_file_says_which(network, pictures, tmp_path):
    before = copy.deepcopy(network.state_dict())
    made, found = mixed.make_variant(PLAN["reverse 87.5"], network, pictures)
    assert found["gone"] == mixed.gone(made, network)  # zeros stayed zero
    for when in ("before", "recalibrated", "after"):
        assert {*found[when]} == {*Evaluation.__annotations__}
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    loaded, _ = pruned_file.load(pruned_file.save(made, mixed.NETWORK, tmp_path / "a.pruned"))
    images = pictures.test.images[:4]
    torch.testing.assert_close(loaded(images), made(images), atol=0.05, rtol=0.05)
    assert [block.attention.num_heads for block in loaded.blocks] == [1] * 4


# --- in the runtime -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(pictures):
    """What a recording would hold of a tiny network, measured in the runtime."""
    torch.manual_seed(0)
    tiny = models.ConvAttentionNet((4, 4, 4, 8), depth=1, heads=2, hidden=16).eval()
    return mixed.measure({"dense": tiny}, pictures, rounds=6, seconds=0)


def test_a_network_is_measured_in_every_form(measured):
    assert [point["form"] for point in measured["points"]] == [*FORMS]


VARIANTS = ("whole", "without attention", "without products")


def test_parts_are_timed_beside_the_whole(measured):
    names = [(row["network"], row["variant"]) for row in measured["parts"]]
    assert names == [("dense", each) for each in VARIANTS]
    assert measured["parts"][0]["one thread"]["speedup"] == 1
    assert all(row["two threads"]["median"] > 0 for row in measured["parts"])


def test_without_products_nothing_else_is_missing(network):
    x = torch.randn(2, 16, 96)
    blocks = mixed.without_products(network.blocks)
    assert blocks(x).shape == x.shape
    assert not masks.prunable(blocks) and masks.prunable(network.blocks)
    kinds = [type(layer) for layer in blocks.modules()]
    assert kinds.count(torch.nn.LayerNorm) == 8 and kinds.count(mixed.Copied) == 16


# --- the recording ------------------------------------------------------------------------------

SMALL_PLAN = {
    "one": Variant(WAYS["textbook"], 0.5),
    "other": Variant(WAYS["both structured"], 0.75),
}
SMALL_AGAIN = {"one, seed 1": SMALL_PLAN["one"]._replace(seed=1)}


@pytest.fixture(scope="module")
def untrained(network):
    """What :func:`course_lib.experiments.mixed.make_variant` would make, less the training."""
    known = {"accuracy": 90.0, "interval": [89.0, 91.0], "validation": 90.0}
    found = {"gone": dict.fromkeys(PARTS, 0.5), "before": known}
    found |= {"recalibrated": known, "after": known}
    cuts = [*SMALL_PLAN.values(), *SMALL_AGAIN.values()]
    return {cut: (mixed.prune(network, cut)[0], found) for cut in cuts}


@pytest.fixture
def quick(monkeypatch, pictures, measured, untrained):
    """A small plan; the cuts that were made. Nothing is trained, and measurements are known."""
    made = []

    def noted(cut, *_, **__):
        made.append(cut)
        return untrained[cut]

    monkeypatch.setattr(mixed, "PLAN", SMALL_PLAN)
    monkeypatch.setattr(mixed, "AGAIN", SMALL_AGAIN)
    monkeypatch.setattr(mixed, "KEPT", ("other",))
    monkeypatch.setattr(mixed, "make_variant", noted)
    monkeypatch.setattr(mixed, "measure", lambda *_: measured)
    monkeypatch.setattr(mixed, "fashion_mnist", lambda: pictures)
    return made


def recorded(path) -> dict:
    return recordings.read(path, "mixed")


def test_a_recording_holds_every_network(quick, measured, tmp_path):
    found = recorded(record("mixed", path=tmp_path / "a.json"))
    assert quick == [*SMALL_PLAN.values(), *SMALL_AGAIN.values()]
    assert [row["name"] for row in found["networks"]] == ["one", "other", "one, seed 1"]
    assert [row["attention"] for row in found["networks"]] == [cut.way.attention for cut in quick]
    assert all(found[table] == measured[table] for table in measured)


def test_only_some_of_its_networks_stay_beside_it(quick, tmp_path):
    path = record("mixed", path=tmp_path / "a.json")
    assert [file.name for file in (tmp_path / "a").iterdir()] == ["other.pruned"]
    other, about = pruned_file.load(network_file(path, "other"))
    assert [block.attention.num_heads for block in other.blocks] == [1] * 4
    assert "'amount': 0.75" in about["step"]


def test_other_seeds_wait_when_the_minutes_are_over(quick, tmp_path):
    path = record("mixed", path=tmp_path / "a.json")
    found = json.loads(path.read_text())
    found["networks"].pop()
    recordings.write(found, path)
    record("mixed", path=path, minutes=0)
    assert len(quick) == 3
    record("mixed", path=path)
    assert len(quick) == 4


def test_a_complete_recording_makes_nothing(quick, tmp_path):
    path = record("mixed", path=tmp_path / "a.json")
    before = path.read_text()
    record("mixed", path=path)
    assert len(quick) == 3 and path.read_text() == before


INTERRUPTIONS = [(mixed, "make_variant", after) for after in (0, 1, 2)] + [(mixed, "measure", 0)]
INTERRUPTIONS += [(recordings, "write", after) for after in range(4)]


@pytest.mark.slow
@pytest.mark.parametrize(("owner", "name", "after"), each(INTERRUPTIONS))
def test_an_interrupted_recording_ends_as_an_uninterrupted_one(
    quick, tmp_path, monkeypatch, owner, name, after
):
    whole = record("mixed", path=tmp_path / "whole.json")
    parts = tmp_path / "parts.json"
    with monkeypatch.context() as patched:
        interrupt(patched, owner, name, after)
        with pytest.raises(KeyboardInterrupt):
            record("mixed", path=parts)
    record("mixed", path=parts)
    assert parts.read_text() == whole.read_text()
    files = (network_file(path, "other") for path in (whole, parts))
    first, second = (pruned_file.load(file)[0].state_dict() for file in files)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_damaged_network_is_made_anew(quick, tmp_path, monkeypatch, capsys):
    path = tmp_path / "a.json"
    with monkeypatch.context() as patched:
        interrupt(patched, mixed, "measure", 0)
        with pytest.raises(KeyboardInterrupt):
            record("mixed", path=path)
    file = network_file(path, "one")
    file.write_bytes(file.read_bytes()[:-1])
    record("mixed", path=path)
    assert [cut.amount for cut in quick] == [0.5, 0.75, 0.5, 0.5]
    assert [row["name"] for row in recorded(path)["networks"]] == ["one", "other", "one, seed 1"]
    assert "set aside" in capsys.readouterr().out


def test_another_plan_is_made_and_measured(quick, tmp_path, monkeypatch):
    path = record("mixed", path=tmp_path / "a.json")
    monkeypatch.setattr(mixed, "PLAN", SMALL_PLAN | {"other": SMALL_PLAN["one"]})
    record("mixed", path=path)
    assert [row["amount"] for row in recorded(path)["networks"]] == [0.5, 0.5, 0.5]

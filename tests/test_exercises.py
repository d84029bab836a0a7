"""References are accepted, wrong answers rejected with their own messages, and none crashes."""

import contextlib
import threading
import time

import pytest
import torch

from course_lib.measuring import language
from course_lib.pruning import decoders, masks
from course_lib.teaching import exercises, lessons, progress
from course_lib.teaching.exercises.engine import examine

ALL = list(exercises.EXERCISES.values())
WRONG = [
    pytest.param(exercise, mistake, id=f"{exercise.id}-{number}")
    for exercise in ALL
    for number, mistake in enumerate(exercise.mistakes)
]


@pytest.fixture(autouse=True)
def own_progress(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path))


def test_every_lesson_has_a_module_whose_exercises_have_its_number():
    modules = {module.__name__.rpartition(".lesson")[2]: module for module in exercises.LESSONS}
    assert [*modules] == [script.stem[:2] for script in lessons.scripts()]
    for number, module in modules.items():
        names = [exercise.id for exercise in module.EXERCISES]
        assert names == [f"{number}.{place}" for place, _ in enumerate(names, start=1)]
    assert len(ALL) == sum(len(module.EXERCISES) for module in exercises.LESSONS)


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
def test_the_reference_is_correct(exercise):
    assert examine(exercise, exercise.reference).kind == "correct"


@pytest.mark.parametrize(("exercise", "mistake"), WRONG)
def test_a_wrong_answer_is_rejected_in_its_own_words(exercise, mistake):
    outcome = examine(exercise, mistake.answer)
    assert outcome.kind == "not yet"
    assert outcome.message == mistake.message
    assert outcome.table[-1][0] == "yours" and outcome.table[-2][0] == "expected"


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
def test_five_mistakes_with_words_of_their_own(exercise):
    messages = {mistake.message for mistake in exercise.mistakes}
    assert len(messages) == len(exercise.mistakes) >= 5
    assert len(exercise.hints) >= 2


@pytest.mark.parametrize("exercise", ALL, ids=lambda exercise: exercise.id)
@pytest.mark.parametrize(
    "skeleton", [lambda *_: ..., lambda *_: _not_written()], ids=["...", "raise"]
)
def test_an_untouched_exercise_is_not_attempted(exercise, skeleton):
    assert examine(exercise, skeleton).kind == "not attempted"
    exercises.check(exercise.id, skeleton)
    assert exercise.id not in progress.read()["exercises"]


def _not_written():
    raise NotImplementedError


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda tensor: None, "Return a float"),
        (lambda tensor: "half", "Return a float"),
        (lambda tensor: True, "Return a float"),
        (lambda tensor: 0.123, "differs"),
        (lambda tensor: 1 / 0, "ZeroDivisionError"),
        (lambda tensor, more: 0.5, "TypeError"),
        (lambda tensor: tensor.zero_() and 0.5, "changed its input"),
        (3.0, "Pass the function itself"),
    ],
    ids=["None", "text", "bool", "number", "raises", "arguments", "in place", "no function"],
)
def test_any_other_answer_is_explained(answer, words):
    shown = exercises.check("00.1", answer)
    assert "not yet" in repr(shown) and words in repr(shown)
    assert "not yet" in shown._repr_html_()


def test_a_wrong_shape_or_dtype_is_named():
    exercise = exercises.EXERCISES["01.1"]
    assert "shape" in examine(exercise, lambda w, s: exercise.reference(w, s).flatten()[:1]).message
    assert "dtype" in examine(exercise, lambda w, s: exercise.reference(w, s).int()).message


class Odd(torch.Tensor):
    """A tensor that raises when it is inspected."""

    @classmethod
    def __torch_function__(cls, *_, **__):
        raise RuntimeError("refused")


def test_a_result_that_cannot_be_compared_is_reported():
    shown = exercises.check("01.5", lambda weight, norm: torch.zeros(1).as_subclass(Odd))
    assert "not yet" in repr(shown) and "RuntimeError: refused" in repr(shown)


def test_an_endless_loop_is_stopped():
    def endless(tensor):
        while True:
            with contextlib.suppress(Exception):
                time.sleep(0.001)

    before = threading.active_count()
    outcome = examine(exercises.EXERCISES["00.1"], endless, seconds=0.2)
    assert outcome.kind == "not yet" and "still ran after 0.2 seconds" in outcome.message
    deadline = time.monotonic() + 120  # it ends at once, but a busy machine may take longer
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before, "the thread of the endless loop still runs"


def test_leaving_the_interpreter_is_reported():
    assert "SystemExit" in repr(exercises.check("00.1", lambda tensor: exit(1)))


def test_the_failing_case_is_the_smallest():
    table = dict(examine(exercises.EXERCISES["00.1"], lambda tensor: 0.5).table)
    assert table["expected"] == "0.75" and table["tensor"] == "[0., 0., 0., 5.]"


def test_attempts_hints_and_success_are_remembered():
    exercises.check("00.1", lambda tensor: 7.0)
    first, second = exercises.hint("00.1"), exercises.hint("00.1")
    assert repr(first) != repr(second)
    assert progress.read()["exercises"]["00.1"] == {"attempts": 1, "hints": 2, "solved": False}
    exercises.check("00.1", exercises.EXERCISES["00.1"].reference)
    exercises.check("00.1", lambda tensor: 7.0)
    assert progress.read()["exercises"]["00.1"] == {"attempts": 3, "hints": 2, "solved": True}


def test_hints_begin_again_after_the_last():
    count = len(exercises.EXERCISES["00.1"].hints)
    shown = [repr(exercises.hint("00.1")) for _ in range(count + 1)]
    assert shown[0] == shown[-1] and len(set(shown)) == count


def test_cells_use_a_correct_answer_and_otherwise_the_reference():
    exercise = exercises.EXERCISES["06.4"]

    def own(left, multiple, whole):
        return exercise.reference(left, multiple, whole)

    assert exercises.working("06.4", own) is own
    for unfinished in (lambda left, multiple, whole: ..., lambda left, multiple, whole: left, None):
        assert exercises.working("06.4", unfinished) is exercise.reference
    assert progress.read()["exercises"] == {}
    with pytest.raises(KeyError):
        exercises.working("06.99", own)


def test_the_solution_is_shown_as_code():
    assert "def sparsity" in repr(exercises.solution("00.1"))


@pytest.mark.parametrize("front", [exercises.hint, exercises.solution], ids=["hint", "solution"])
def test_an_unknown_exercise_is_named(front):
    assert "There is no exercise '01.99'" in repr(front("01.99"))
    assert "There is no exercise '01.99'" in repr(exercises.check("01.99", print))


def test_the_graders_front_raises():
    exercises.require("00.1", exercises.EXERCISES["00.1"].reference)
    with pytest.raises(AssertionError, match="density"):
        exercises.require("00.1", lambda tensor: (tensor != 0).float().mean().item())
    with pytest.raises(AssertionError, match="not attempted"):
        exercises.require("00.1", lambda tensor: ...)


def test_the_learner_builds_what_the_library_has():
    weight, norm = torch.randn(8, 12), torch.rand(12)
    model = torch.nn.Sequential(torch.nn.Linear(12, 8), torch.nn.Linear(8, 4))
    reference = {name: exercise.reference for name, exercise in exercises.EXERCISES.items()}
    weights = {name: weight.detach() for name, weight in masks.prunable(model).items()}
    ours = masks.global_masks(model, 0.7)
    theirs = reference["01.2"](weights, 0.7)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(masks.wanda(weight, norm), reference["01.5"](weight, norm))
    assert torch.equal(masks.nm_mask(weight.abs(), 2, 4), reference["01.6"](weight, 2, 4))


def test_lesson_11_measures_as_the_library_does():
    losses = torch.rand(4, 7, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    perplexity = exercises.EXERCISES["11.2"].reference(losses)
    assert perplexity == pytest.approx(language.perplexity(losses).value)
    cache_bytes = exercises.EXERCISES["11.3"].reference
    assert cache_bytes(30, 9, 3, 64, 100, 2, 4) == language.kv_cache_bytes(30, 3, 64, 100, 2, 4)


@pytest.mark.parametrize(("heads", "groups"), [(6, 3), (4, 4), (3, 1)])
def test_the_rows_of_a_group_are_those_of_the_graph(heads, groups):
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=11,
        hidden_size=4 * heads,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=heads,
        num_key_value_heads=groups,
    )
    graph = decoders.graph(transformers.LlamaForCausalLM(config))
    channels = graph.groups["0.groups"].channels
    made = {slot.name.split(".")[-2]: slot.channels for slot in graph.slots if not slot.reads}
    for group in range(groups):
        query, pair = decoders.group_rows(group, heads, groups, head_dim=4)
        for name, rows in (("q_proj", query), ("k_proj", pair), ("v_proj", pair)):
            assert rows == (made[name] == channels[group]).nonzero()[:, 0].tolist()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((3, 6, 3, 4), "no group 3"), ((-1, 6, 3, 4), "no group -1"), ((0, 4, 3, 4), "4 query heads")],
)
def test_a_group_that_does_not_exist_is_named(arguments, said):
    with pytest.raises(ValueError, match=said):
        decoders.group_rows(*arguments)


def test_a_narrower_norm_computes_the_same_when_the_other_channels_are_zero():
    weight, stream = torch.randn(12).double(), torch.randn(5, 12).double() / 50
    kept = [0, 3, 4, 9]
    gone = [channel for channel in range(12) if channel not in kept]
    stream[:, gone] = 0
    whole = torch.nn.functional.rms_norm(stream, (12,), weight, 1e-3)[:, kept]
    narrow, epsilon = decoders.narrower_norm(weight, 1e-3, kept)
    assert torch.allclose(
        torch.nn.functional.rms_norm(stream[:, kept], (4,), narrow, epsilon), whole
    )

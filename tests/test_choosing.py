"""The figure is drawn from the rules themselves, and highlights the path of the advice."""

import matplotlib.pyplot as plt
import pytest
from matplotlib.colors import to_rgba

from course_lib.decision import evidence, rules
from course_lib.decision.rules import Brief, decide
from course_lib.teaching import choosing
from course_lib.teaching.figures import COLOURS


@pytest.fixture(scope="module")
def known():
    return evidence.collected()


BRIEFS = {
    "nothing": Brief("cpu", "compute", "cnn"),
    "all steps": Brief(
        "cpu", "download", "cnn", compression_ratio=200, max_accuracy_drop=1, retraining=2.0
    ),
    "sparse": Brief("gpu with 2:4", "compute", "transformer", speedup=1.5, retraining=0.2),
    "impossible": Brief("microcontroller", "RAM", "mixed", compression_ratio=900, retraining=0.1),
}


@pytest.fixture(params=BRIEFS)
def drawn(request, known):
    advice = decide(BRIEFS[request.param], known)
    figure = choosing.picture(advice)
    yield advice, figure.axes[0].texts
    plt.close(figure)


def test_every_rule_is_there_and_every_step_has_its_place(drawn):
    advice, texts = drawn
    words = [" ".join(text.get_text().split()) for text in texts]
    assert all(rule.question in words for rule in rules.RULES)
    for place, name in enumerate(advice.names, start=1):
        assert f"{place}. {name}" in words


def test_only_what_was_chosen_has_the_colour_of_its_idea(drawn):
    advice, texts = drawn
    boxes = {text.get_text(): text.get_bbox_patch() for text in texts if text.get_bbox_patch()}
    for place, name in enumerate(advice.names, start=1):
        wanted = to_rgba(COLOURS[choosing.IDEAS[name]], boxes[f"{place}. {name}"].get_alpha())
        assert boxes[f"{place}. {name}"].get_facecolor() == wanted
    for rule in rules.RULES:
        if rule.step in boxes:
            assert boxes[rule.step].get_facecolor() == to_rgba("white")


def test_the_verdict_and_the_note_on_the_hardware_are_told(drawn):
    advice, texts = drawn
    last = " ".join(texts[-1].get_text().split())
    assert rules.HARDWARE[advice.brief.hardware].note in last
    assert all(step.expected.source in last for step in advice.steps if step.expected)
    assert ("meets all targets" in last) == advice.enough


def test_every_step_has_an_idea_with_a_colour():
    assert set(choosing.IDEAS) == {rules.NOTHING, *rules.STEPS}
    assert set(choosing.IDEAS.values()) <= set(COLOURS)

"""The drill asks what is due, keeps every grade, judges numbers, and works by keyboard alone."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import warnings
from datetime import UTC, datetime, timedelta

import ipywidgets
import pytest
from interruptions import interrupt

from course_lib import PROJECT
from course_lib.teaching import drill, drill_widgets, progress, questions
from course_lib.teaching.drill import Answer, DrillError, Terminal
from course_lib.teaching.drill_widgets import Cards, Interview

BANK = questions.load()
NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
EXPLAIN, OTHER = BANK["01-rescaling"], BANK["03-flatten"]
EXPLAIN = EXPLAIN._replace(strong=EXPLAIN.strong[:3])  # three points to answer, however it grows
ESTIMATE = BANK["04-rounds"]  # the answer is 89.26 %, within 2


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "state"))
    return tmp_path / "state" / "progress.json"


@pytest.fixture(scope="module")
def finder():
    return questions.NumberFinder(machine="nobody's")


def at(day):
    return NOW + day * DAY


# --- the schedule -------------------------------------------------------------------------------


def test_the_better_the_grade_the_later_it_comes_back():
    due = [drill.remember(f"q{grade}", grade, NOW) for grade in drill.GRADES]
    assert due == sorted(due) and len(set(due)) == 4
    assert due[0] < NOW + timedelta(hours=1) and due[-1] > NOW + DAY


def test_pauses_grow_with_every_good_answer_and_shrink_when_forgotten():
    now, pauses = NOW, []
    for grade in ["good"] * 5 + ["again", "good"]:
        due = drill.remember("q", grade, now)
        pauses.append(due - now)
        now = due
    assert pauses[:5] == sorted(pauses[:5]) and pauses[4] > 30 * DAY
    assert pauses[5] < DAY and pauses[6] < pauses[4] / 4


def test_the_same_grades_give_the_same_schedule():
    assert drill.remember("a", "good", NOW) == drill.remember("b", "good", NOW)


def test_what_is_due_comes_first_the_longest_overdue_at_the_head():
    first, second, third, later = [*BANK][:4]
    for name, day in ((second, 1), (first, 0), (third, 2)):
        drill.remember(name, "again", at(day))
    drill.remember(later, "easy", at(2))
    deck = [question.id for question in drill.deck(BANK, at(3), seed=1, new=5)]
    assert deck[:3] == [first, second, third]
    assert later not in deck and len(deck) == 8 == len(set(deck))


def test_a_deck_depends_on_its_seed_and_ends_with_the_bank():
    assert drill.deck(BANK, NOW, seed=1) == drill.deck(BANK, NOW, seed=1)
    assert drill.deck(BANK, NOW, seed=1) != drill.deck(BANK, NOW, seed=2)
    few = {name: BANK[name] for name in [*BANK][:3]}
    for name in few:
        drill.remember(name, "easy", NOW)
    assert drill.deck(few, NOW, seed=1) == []


def test_grades_outlast_the_process_beside_the_rest_of_the_progress(state):
    progress.update(lambda kept: kept["exercises"].update({"01.1": {"solved": True}}))
    drill.remember(EXPLAIN.id, "good", NOW)
    stored = json.loads(state.read_text())
    assert stored["interview"][EXPLAIN.id]["grade"] == "good"
    assert stored["exercises"] == {"01.1": {"solved": True}}
    assert drill.asked(BANK, NOW) == {EXPLAIN.id: NOW + timedelta(minutes=10)}


def test_a_damaged_file_is_set_aside_and_the_drill_goes_on(state):
    drill.remember(EXPLAIN.id, "good", NOW)
    state.write_text(state.read_text().replace('"interview": {', '"interview": [{'))
    with pytest.warns(UserWarning, match="damaged"):
        assert drill.asked(BANK, NOW) == {}
    assert [*state.parent.glob("progress.damaged-*.json")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drill.remember(EXPLAIN.id, "good", NOW)
    assert EXPLAIN.id in drill.asked(BANK, NOW)


@pytest.mark.parametrize(
    "damage",
    [
        {"due": "soon"},
        {"due": "2030-01-01"},
        {"state": 9},
        {"stability": None},
        {"state": 3, "step": None},
        {"last_review": None},
    ],
)
def test_a_damaged_card_counts_as_never_asked(damage):
    drill.remember(EXPLAIN.id, "easy", NOW)
    progress.update(lambda kept: kept["interview"][EXPLAIN.id]["card"].update(damage))
    assert drill.asked(BANK, NOW) == {}
    drill.remember(EXPLAIN.id, "easy", NOW)
    assert [*drill.asked(BANK, NOW)] == [EXPLAIN.id]


def test_an_entry_that_is_no_card_and_a_question_that_is_gone_do_no_harm():
    progress.update(lambda kept: kept["interview"].update({EXPLAIN.id: {}, "99-gone": {"card": 1}}))
    assert drill.asked(BANK, NOW) == {}
    assert sum(row.questions for row in drill.by_topic(BANK, NOW)) == len(BANK)


def test_progress_by_topic():
    drill.remember(EXPLAIN.id, "good", NOW)
    drill.remember("01-assumption", "again", NOW)
    row = {row.topic: row for row in drill.by_topic(BANK, NOW)}["scoring"]
    assert (row.asked, row.known, row.due) == (2, 1, 0)
    row = {row.topic: row for row in drill.by_topic(BANK, at(1))}["scoring"]
    assert (row.asked, row.known, row.due) == (2, 1, 2)
    assert "scoring" in drill.table([row])


# --- drawing and judging ------------------------------------------------------------------------


def test_a_draw_covers_every_topic_before_any_twice():
    topics = [question.topic for question in drill.draw(BANK, len(questions.TOPICS), seed=3)]
    assert sorted(topics) == sorted(questions.TOPICS)
    assert len(drill.draw(BANK, 1000, seed=3)) == len(BANK)


def test_questions_are_chosen_by_lesson_topic_and_difficulty():
    chosen = drill.choose(BANK, lessons=["05"], topics=["sparsity"], difficulties=[3])
    assert chosen and all(
        (question.lesson, question.topic, question.difficulty) == ("05", "sparsity", 3)
        for question in chosen.values()
    )
    assert drill.choose(BANK) == BANK
    with pytest.raises(DrillError, match=r"01.*and difficulties .5. together"):
        drill.choose(BANK, lessons=["01"], topics=["language models"], difficulties=[5])


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"lessons": ["05", "99"]}, r"lesson '99'\. Choose from 01, 02"),
        ({"topics": ["speed", "cooking"]}, r"topic 'cooking'\. Choose from scoring"),
        ({"difficulties": [1, 6]}, r"difficulty 6\. Choose from 1, 2, 3, 4, 5"),
    ],
)
def test_a_selection_that_does_not_exist_is_refused_beside_one_that_does(selection, said):
    with pytest.raises(DrillError, match=said):
        drill.choose(BANK, **selection)


def test_fewer_than_no_questions_cannot_be_drawn():
    with pytest.raises(DrillError, match="-3 questions"):
        drill.draw(BANK, -3, seed=1)
    with pytest.raises(DrillError, match="-3 questions"):
        drill.deck(BANK, NOW, seed=1, new=-3)
    assert drill.deck(BANK, NOW, seed=1, new=0) == []


# --- failed questions ---------------------------------------------------------------------------


def asked_in_turn(deck, failed):
    """The ids in the order of asking, if the questions in ``failed`` are failed every time."""
    pile, order = drill.Pile(deck), []
    while pile.current:
        order.append(pile.current.id)
        pile.answer("again" if pile.current.id in failed else "good")
    assert pile.answered == pile.count == len(order)
    return order


def test_a_failed_question_comes_back_after_three_others_and_twice_at_most():
    deck = [*BANK.values()][:8]
    first, *others = [question.id for question in deck]
    assert asked_in_turn(deck, [first]) == [
        *(first, *others[:3], first, *others[3:6], first, others[6])
    ]
    assert asked_in_turn(deck, []) == [first, *others]


def test_a_question_that_fails_near_the_end_comes_back_after_those_that_are_left():
    deck = [*BANK.values()][:3]
    names = [question.id for question in deck]
    assert asked_in_turn(deck, names[1:2]) == [names[0], names[1], names[2], names[1], names[1]]
    assert asked_in_turn(deck[:1], names) == names[:1] * 3
    assert len(asked_in_turn(deck, names)) == 9


def test_an_estimate_is_judged_by_its_tolerance(finder):
    assert [drill.judged(ESTIMATE.estimate, guess, finder) for guess in (88, 91, 95)] == [
        *("good", "good", "again")
    ]


def answer(made, question=EXPLAIN, seconds=30.0):
    return Answer(question, (True,) * made + (False,) * (3 - made), seconds)


def test_a_mock_answer_is_graded_by_its_points_and_its_time():
    assert [answer(made).grade for made in range(4)] == ["again", "again", "hard", "good"]
    assert answer(3, seconds=60.0).grade == "good" and answer(3, seconds=61.0).grade == "hard"


def test_the_summary_counts_by_topic_and_says_what_to_read_again():
    summary = drill.summary([answer(3), answer(1, OTHER), answer(0, OTHER, seconds=90)])
    assert summary.points == {"scoring": (3, 3), "surgery": (1, 6)}
    assert summary.late == 1 and summary.again == [OTHER, OTHER]
    assert "4 of 9 points" in str(summary) and "lesson 03, claim C09" in str(summary)
    with pytest.raises(DrillError, match="Nothing was answered"):
        drill.summary([])


# --- the terminal -------------------------------------------------------------------------------


def terminal(finder, *lines, seconds=20.0):
    """A terminal that reads ``lines``, then Ctrl-D; what it wrote; a clock."""
    typed, written, ticks = iter(lines), [], iter(range(1000))

    def read(prompt):
        written.append(prompt)
        line = next(typed, EOFError)
        if isinstance(line, str):
            return line
        raise line

    return Terminal(finder, read, written.append, lambda: next(ticks) * seconds), written


def test_cards_in_the_terminal(finder):
    there, written = terminal(finder, "", "five", "3", "many", "89,500", "89")
    assert drill.practise([EXPLAIN, ESTIMATE], there, lambda: NOW) == 2
    text = "\n".join(written)
    assert "1 of 2: explain in sixty seconds, scoring, difficulty 3 of 5" in text
    assert "Type 1, 2, 3 or 4." in text and "Type a number such as 2.5." in text
    assert "89,500 could be 89500 or 89.5." in text
    assert "Right." in text and "Comes back in 10 minutes." in text and "claim C01" in text
    assert [entry["grade"] for entry in progress.read()["interview"].values()] == ["good"] * 2


@pytest.mark.parametrize("stop", ["q", "Quit", EOFError, KeyboardInterrupt])
def test_stopping_at_any_prompt_keeps_what_was_graded(finder, stop):
    there, _ = terminal(finder, "", "easy", "", stop)
    assert drill.practise([EXPLAIN, OTHER], there, lambda: NOW) == 1
    assert [*progress.read()["interview"]] == [EXPLAIN.id]
    assert drill.interview([OTHER], terminal(finder, stop)[0], lambda: NOW) == []


def test_a_wrong_number_is_asked_again_in_the_same_drill(finder):
    there, written = terminal(finder, "200", "", "good", "90")
    assert drill.practise([ESTIMATE, EXPLAIN], there, lambda: NOW) == 3
    assert "Not close enough." in written and "Comes back in this drill." in written
    assert any(line.startswith("\n3 of 3: estimate") for line in written)
    assert progress.read()["interview"][ESTIMATE.id]["grade"] == "good"


def test_a_failed_question_is_stored_as_failed_until_it_comes_back(finder):
    drill.practise([ESTIMATE, EXPLAIN], terminal(finder, "200")[0], lambda: NOW)
    assert progress.read()["interview"][ESTIMATE.id]["grade"] == "again"


def test_a_mock_interview_in_the_terminal(finder):
    there, written = terminal(finder, "", "y", "maybe", "n", "yes", "", seconds=70.0)
    [made] = drill.interview([EXPLAIN, OTHER], there, lambda: NOW)
    assert made == Answer(EXPLAIN, (True, False, True), 70.0) and made.grade == "hard"
    assert "70 seconds, too long." in written and "Type y or n." in written
    assert [*progress.read()["interview"]] == [EXPLAIN.id]


@pytest.mark.parametrize("stop", ["q", EOFError, KeyboardInterrupt])
def test_points_ticked_before_stopping_are_kept_and_the_others_count_as_missed(finder, stop):
    there, _ = terminal(finder, "", "y", "y", stop)
    assert drill.interview([EXPLAIN, OTHER], there, lambda: NOW) == [
        Answer(EXPLAIN, (True, True, False), 20.0)
    ]
    assert progress.read()["interview"][EXPLAIN.id]["grade"] == "hard"


@pytest.mark.parametrize("columns", [-1, 0, 1, 2, 5, 20, 500])
def test_text_is_wrapped_in_a_window_of_any_width(finder, monkeypatch, columns):
    monkeypatch.setattr(drill.shutil, "get_terminal_size", lambda: os.terminal_size((columns, 1)))
    there, written = terminal(finder, "", "3")
    assert drill.practise([EXPLAIN], there, lambda: NOW) == 1
    there.say("a word " * 40, indent="  ")
    assert max(map(len, written[-1].splitlines())) <= max(20, min(88, columns - 1))


@pytest.fixture
def typed(monkeypatch):
    """Sets the lines that the learner types; after them comes ``end``."""

    def types(*lines, end=EOFError):
        waiting = iter(lines)

        def read(prompt):
            try:
                return next(waiting)
            except StopIteration:
                raise end from None

        monkeypatch.setattr("builtins.input", read)

    return types


def test_the_command_asks_prints_the_topics_and_refuses_nonsense(typed, capsys):
    typed("", "4")
    assert drill.main(["--lesson", "3", "--seed", "5", "--count", "2"]) == 0
    out = capsys.readouterr().out
    assert "1 of 2:" in out and "topic" in out
    assert drill.main(["--lesson", "03", "--lesson", "77"]) == 1
    assert "no questions of lesson '77'" in capsys.readouterr().err
    assert drill.main(["--mock"]) == 0
    assert "Nothing answered." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--count", "-3"], "--count: -3 questions cannot be asked; type 1 or more"),
        (["--count", "0"], "--count: 0 questions"),
        (["--mock", "--count=-1"], "--count: -1 questions"),
        (["--count", "2.5"], "--count: '2.5' is not a whole number"),
        (["--count", "ten"], "--count: 'ten' is not a whole number"),
        (["--seed", "today"], "--seed: 'today' is not a whole number"),
        (["--topic", "cooking"], "--topic: invalid choice: 'cooking'"),
    ],
)
def test_impossible_options_are_refused_with_their_value(arguments, said, capsys):
    with pytest.raises(SystemExit) as ended:
        drill.main(arguments)
    assert ended.value.code == 2 and said in capsys.readouterr().err


# --- Ctrl-C -------------------------------------------------------------------------------------


def test_ctrl_c_at_a_prompt_ends_with_the_results_and_its_own_status(typed, capsys):
    typed("", "4", end=KeyboardInterrupt)
    assert drill.main(["--lesson", "3", "--seed", "5"]) == 130
    said = capsys.readouterr()
    assert "1 answered." in said.out and said.err == f"\n{drill.STOPPED}\n"
    assert len(progress.read()["interview"]) == 1


@pytest.mark.parametrize("moment", ["load", "filled"])
def test_ctrl_c_while_the_drill_works_ends_it_quietly(monkeypatch, typed, capsys, moment):
    typed()
    interrupt(monkeypatch, questions, moment, after=0)
    assert drill.main([]) == 130
    assert capsys.readouterr().err == f"\n{drill.STOPPED}\n"


@pytest.mark.parametrize("moment", ["remember", "comes_back"])
def test_ctrl_c_after_an_answer_waits_until_it_is_stored(monkeypatch, typed, capsys, moment):
    typed("", "4")
    real = getattr(drill, moment)

    def pressed(*arguments):
        signal.raise_signal(signal.SIGINT)
        return real(*arguments)

    monkeypatch.setattr(drill, moment, pressed)
    before = signal.getsignal(signal.SIGINT)
    assert drill.main(["--lesson", "3", "--seed", "5"]) == 130
    assert signal.getsignal(signal.SIGINT) == before
    assert "1 answered." in capsys.readouterr().out
    assert len(progress.read()["interview"]) == 1


@pytest.mark.parametrize("late", ["fsrs", "torch", "yaml"])
def test_ctrl_c_while_the_drill_is_still_importing_ends_it_quietly(tmp_path, late):
    (tmp_path / f"{late}.py").write_text("import signal\nsignal.raise_signal(signal.SIGINT)\n")
    folders = os.pathsep.join([str(tmp_path), str(PROJECT)])
    done = subprocess.run(
        [sys.executable, "-m", "course_lib.teaching.drill"],
        env={**os.environ, "PYTHONPATH": folders},
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 130 and done.stdout == ""
    assert done.stderr == f"\n{drill.STOPPED}\n"


#: What takes long to import, and what only the widgets need.
NOT_NEEDED = {"jsonschema", "transformers", "torchvision", "onnxruntime", "matplotlib"}
NOT_NEEDED |= {"IPython", "ipywidgets", "scipy", "nbformat", "torch.export"}


@pytest.mark.slow
def test_the_drill_starts_without_what_it_does_not_need():
    script = """
import sys, torch
before = {*sys.modules}
from course_lib.teaching import drill
drill.main(["--count", "1"])
print("IMPORTED", *{*sys.modules} - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=PROJECT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "1 of 1:" in done.stdout
    assert not NOT_NEEDED & {*done.stdout.split("IMPORTED")[1].split()}


@pytest.mark.parametrize(
    ("pause", "words"),
    [
        (timedelta(seconds=20), "in a minute"),
        (timedelta(minutes=10), "in 10 minutes"),
        (timedelta(hours=1), "in 1 hour."),
        (3 * DAY, "in 3 days"),
    ],
)
def test_when_it_comes_back_in_words(pause, words):
    assert words in drill.comes_back(NOW + pause, NOW)


# --- widgets ------------------------------------------------------------------------------------


@pytest.fixture
def focused(monkeypatch):
    """The widgets that got the focus, in order."""
    moved = []
    monkeypatch.setattr(ipywidgets.DOMWidget, "focus", lambda widget: moved.append(widget))
    return moved


def visible(widget):
    return widget.layout.display != "none"


def test_cards_go_from_question_to_answer_to_grade_to_the_next(finder, focused):
    cards = Cards([EXPLAIN, ESTIMATE], finder, lambda: NOW)
    assert EXPLAIN.question in cards.question.value and focused == []
    assert visible(cards.question) and visible(cards.show)
    assert not visible(cards.answer) and not visible(cards.choice)
    cards.show.click()
    assert visible(cards.answer) and visible(cards.choice) and not visible(cards.show)
    cards.grades[1].click()
    assert progress.read()["interview"][EXPLAIN.id]["grade"] == "hard"
    assert not visible(cards.choice) and "Comes back" in cards.said.value
    cards.next.click()
    assert visible(cards.guess) and not visible(cards.show) and not visible(cards.answer)
    assert focused == [cards.grades[2], cards.next, cards.guess]


def test_an_estimate_is_entered_and_grades_itself(finder, focused):
    cards = Cards([ESTIMATE], finder, lambda: NOW)
    cards.guess.value = "lots"
    assert "Type a number" in cards.said.value and visible(cards.guess)
    assert progress.read()["interview"] == {}
    cards.guess.value = "90,125 %"
    assert "90125 or 90.1250" in cards.said.value and progress.read()["interview"] == {}
    cards.guess.value = "90 %"
    assert cards.said.value.startswith("Right.") and "89.3" in cards.answer.value
    assert progress.read()["interview"][ESTIMATE.id]["grade"] == "good"
    cards.next.click()
    assert cards.current is None and "Cards done: 1" in cards.question.value
    assert not visible(cards.next)


def test_a_failed_card_comes_back_after_the_others(finder, focused):
    cards = Cards([EXPLAIN, ESTIMATE], finder, lambda: NOW)
    cards.show.click()
    cards.grades[0].click()
    assert cards.said.value == "Comes back in this drill."
    cards.next.click()
    cards.guess.value = "89"
    cards.next.click()
    assert "3 of 3" in cards.question.value and EXPLAIN.question in cards.question.value
    assert visible(cards.show) and not visible(cards.answer)
    cards.show.click()
    cards.grades[2].click()
    cards.next.click()
    assert cards.current is None and "Cards done: 3" in cards.question.value


def test_an_empty_deck_says_so(finder):
    assert "Cards done: 0" in Cards([], finder).question.value


def interviewed(finder, seconds):
    """A mock interview whose clock is ``seconds`` (a list of one number), and its countdowns."""
    waiting = []
    mock = Interview([EXPLAIN, OTHER], finder, lambda: NOW, lambda: seconds[0], waiting.append)
    return mock, waiting


def test_a_mock_interview_counts_down_and_sums_up(finder, focused):
    seconds = [0.0]
    mock, waiting = interviewed(finder, seconds)
    assert waiting == [] and not visible(mock.time), "nothing runs before it is started"
    mock.start.click()
    assert mock.time.value == 60 and visible(mock.time) and visible(mock.stop)
    assert visible(mock.question) and not visible(mock.answer)

    async def second(_):
        seconds[0] += 1
        if seconds[0] == 55:
            assert mock.time.description == "6 s" and mock.time.bar_style == "danger"

    asyncio.run(mock.countdown(1, second))
    assert mock.time.value == 0 and seconds[0] >= 60, "it ends, and the answer may still come"
    mock.stop.click()
    assert [box.description for box in mock.boxes.children] == [*EXPLAIN.strong]
    for box in mock.boxes.children:
        box.value = True
    mock.next.click()
    assert mock.time.value == 60 and OTHER.question.split()[0] in mock.question.value
    mock.stop.click()
    mock.next.click()
    assert "3 of 6 points" in mock.question.value and "lesson 03" in mock.question.value
    grades = {name: entry["grade"] for name, entry in progress.read()["interview"].items()}
    assert grades == {EXPLAIN.id: "good", OTHER.id: "again"}
    for coroutine in waiting:
        coroutine.close()


def test_what_is_ticked_is_stored_before_the_next_question(finder, focused):
    mock, waiting = interviewed(finder, [0.0])
    mock.start.click()
    mock.stop.click()
    assert progress.read()["interview"] == {}
    for box, grade in zip(mock.boxes.children, ("again", "hard", "good"), strict=True):
        box.value = True
        assert progress.read()["interview"][EXPLAIN.id]["grade"] == grade
    mock.next.click()
    stored = progress.read()["interview"][EXPLAIN.id]
    drill.remember("ticked at once", "good", NOW)
    assert stored == progress.read()["interview"]["ticked at once"], "it counts as one answer"
    for coroutine in waiting:
        coroutine.close()


def test_the_countdown_of_an_answered_question_stops(finder, focused):
    seconds = [0.0]
    mock, waiting = interviewed(finder, seconds)
    mock.start.click()
    mock.stop.click()
    steps = []

    async def second(_):
        steps.append(1)

    asyncio.run(mock.countdown(1, second))
    assert steps == []
    for coroutine in waiting:
        coroutine.close()


def test_an_estimate_has_its_number_among_the_points(finder):
    first, *rest = drill.rubric(ESTIMATE, finder)
    assert first == "a number within 2 % of 89.3 %" and rest == [*ESTIMATE.strong]


def test_text_of_a_question_stays_text(finder):
    odd = EXPLAIN._replace(question="<script>1 < 2</script>", answer="a & b")
    assert "<script>" not in drill_widgets.question_html(odd, 1, 1, finder)
    assert "a &amp; b" in drill_widgets.answer_html(odd, finder)


def test_pictures_show_the_bank_and_the_topics():
    drill.remember(EXPLAIN.id, "good", NOW)
    figure = drill_widgets.bank_figure(BANK)
    assert sum(int(text.get_text()) for text in figure.axes[0].texts) == len(BANK)
    rows = drill.by_topic(BANK, NOW)
    bars = drill_widgets.topics_figure(rows).axes[0].patches
    assert sum(bar.get_width() for bar in bars) == len(BANK) + 2

"""Progress bars are shown to users and turned off in tests."""

from course_lib import bars


def test_progress_bars_are_silent_in_tests_and_on_for_people(monkeypatch, capsys):
    assert list(bars.bar(range(3), "quiet")) == [0, 1, 2]
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("COURSE_QUIET")
    assert list(bars.bar(range(3), "counting")) == [0, 1, 2]
    assert "counting" in capsys.readouterr().err


def test_a_line_is_said_at_once(capsys):
    bars.say("epoch 1")
    assert capsys.readouterr().out == "epoch 1\n"

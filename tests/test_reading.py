"""A sentence about a live result is selected by the result."""

import pytest

from course_lib.teaching import reading


@pytest.mark.parametrize(("found", "sentence"), [(True, "It is so."), (False, "It is not.")])
def test_the_result_chooses_the_sentence(monkeypatch, found, sentence):
    shown = []
    monkeypatch.setattr(reading, "display", shown.append)
    reading.read(found, "It is so.", "It is not.")
    assert [one.data for one in shown] == [sentence]

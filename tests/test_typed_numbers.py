"""Numbers are read as people type them, and never guessed."""

import pytest

from course_lib.teaching import questions, typed_numbers
from course_lib.teaching.typed_numbers import NumberError

UNITS = sorted({each.estimate.unit for each in questions.load().values() if each.estimate})


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("2.5", 2.5),
        ("2,5", 2.5),
        ("20,5", 20.5),
        (".5", 0.5),
        (",5", 0.5),
        ("5.", 5),
        ("-1", -1),
        ("\u22121,5", -1.5),
        ("+3", 3),
        ("~20", 20),
        ("1000", 1000),
        ("1 000", 1000),
        ("1\u202f000\u202f000", 1e6),
        ("1'000", 1000),
        ("1_000", 1000),
        ("1,000,000", 1e6),
        ("1.000.000", 1e6),
        ("1,000.5", 1000.5),
        ("1.000,5", 1000.5),
        ("1 000,5", 1000.5),
        ("1,000.000", 1000),
        ("1 000,500", 1000.5),
        ("0.125", 0.125),
        ("0,500", 0.5),
        ("1000,125", 1000.125),
        ("1.1250", 1.125),
        ("1e3", 1000),
        ("1,5E-3", 0.0015),
        ("10k", 10_000),
        ("10 K", 10_000),
        ("2,5 million", 2.5e6),
        ("22.7M", 22.7e6),
    ],
)
def test_what_means_the_same_to_everybody_is_read(typed, meant):
    assert typed_numbers.read(typed) == pytest.approx(meant)


@pytest.mark.parametrize(
    ("typed", "meanings"),
    [
        ("1,000", "1000 or 1.0"),
        ("1.000", "1000 or 1.0"),
        ("-12,340", "-12340 or -12.34"),
        ("123.456", "123456 or 123.4560"),
        ("1,000 x", "1000 or 1.0"),
        ("1,000k", "1000 or 1.0"),
        ("1,000e3", "1000 or 1.0"),
    ],
)
def test_what_could_be_two_numbers_is_refused_with_both(typed, meanings):
    with pytest.raises(NumberError, match=f"could be {meanings}. Type {meanings}."):
        typed_numbers.read(typed, "x")
    for meaning in meanings.split(" or "):
        assert typed_numbers.read(meaning) == float(meaning), "what it offers is understood"


@pytest.mark.parametrize(
    "typed",
    [
        *("", " ", "two", "nan", "inf", "1e999", "--1", "1 5", "1, 5", "1,2,3", "1.5.2", "1,00.5"),
        *("0,123.456", "1__000", "10-20", "1/3", "\u0663", "5m", "1e", "1 ,000", "1.000,000,5"),
        *("x", ".", ",", "5 apples", "k", "0x10"),
    ],
)
def test_what_is_no_number_is_refused(typed):
    with pytest.raises(NumberError, match=r"Type (a number|one)"):
        typed_numbers.read(typed)


@pytest.mark.parametrize("unit", UNITS)
def test_the_unit_that_was_asked_for_may_follow(unit):
    assert typed_numbers.read(f"2,5 {unit}", unit) == 2.5
    assert typed_numbers.read(f"2.5{unit}", unit) == 2.5
    assert typed_numbers.read("2.5", unit) == 2.5


@pytest.mark.parametrize(
    ("typed", "unit", "meant"),
    [
        ("50%", "%", 50),
        ("50 percent", "%", 50),
        ("5 %", "points", 5),
        ("3\u00d7", "x", 3),
        ("3 times", "x", 3),
        ("22.7M", "million", 22.7),
        ("2k tokens", "tokens", 2000),
        ("2.5gb", "GB", 2.5),
        ("50 %", "of the bytes", 0.5),
        ("50% of the bytes", "of the bytes", 0.5),
    ],
)
def test_units_have_other_names(typed, unit, meant):
    assert typed_numbers.read(typed, unit) == pytest.approx(meant)


@pytest.mark.parametrize(
    ("typed", "unit"), [("500 MB", "GB"), ("50 %", "x"), ("3 s", "ms"), ("2 x", "%")]
)
def test_another_unit_is_refused_with_the_one_that_was_asked_for(typed, unit):
    with pytest.raises(NumberError, match=f"in this unit: {unit}"):
        typed_numbers.read(typed, unit)

"""The glossary and the lessons agree: what one names, the other has, in the field's words."""

import re
from typing import NamedTuple

import jupytext
import pytest

from course_lib import PROJECT
from course_lib.teaching import lessons

ENTRY = re.compile(
    r"^- \*\*(?P<term>[^*]+)\*\*(?: \(also: (?P<also>[^)]+)\))?: (?P<text>.+?) "
    r"\*Lessons? (?P<lessons>[^*]+)\.\*$"
)

#: Bold words of a lesson's bones: its first cell, exercises, questions, "Where next".
BONES = re.compile(r"Time|Claims|Needs|Exercise .+|\d+\. .+|[Ll]esson \d\d(, .+)?")

#: What lessons print in bold and no glossary explains: stress, buttons, kinds of questions.
EMPHASIS = {
    "Shift + Enter",
    "half of all its weights to zero",
    "Removing a channel is exactly the same as zeroing the weights that read it.",
    "one point",
    "Measure.",
    "if that pays",
    "Under 200 kB, at least 91 % of the test pictures, as fast as you can.",
    "convolutions structured",
    "attention unstructured",
    "convolutions",
    "Recall",
    "explain",
    "estimate",
    "spot the mistake",
    "design",
}

#: Words that the course made up, and the field's for them.
PRIVATE = {
    r"silenc(ed|es|ing)\b|silence (a|the|what|those)\b": "zero the weights that read it",
    r"gone on with": "resumed",
    r"\w+ that (is|are) none\b": "invalid",
    r"dear(er|est)?\b": "expensive",
    r"hears? (the|that|a) channel": "reads the channel",
    r"loud(er|est)?\b": "large",
    r"blind (layer|guessing)\b": "a layer in which the score fails, random guessing",
    r"measured anew\b": "recalibrated",
    r"hold(s|ing)? (zero\b|the zeros)": "contains zero, enforces the masks",
    r"whoever\b": "if you",
    r"lest\b": "so that ... not",
    r"masks\.hold\b": "masks.enforce_masks",
    r"sparse\.hold\b": "sparse.to_formats",
    r"surgery\.silence\b": "surgery.zero_readers",
    r"(channels\.)?true_costs\b": "channels.ablation_losses",
    r"steps\.take\b": "steps.apply_step",
    r"steps\.rounded\b": "steps.fake_quantized",
    r"storage\.shared\b": "storage.share_weights",
    r"cost\.front\b": "cost.pareto_front",
}


class Entry(NamedTuple):
    """A term with its synonyms, its definition, and the numbers of its lessons."""

    term: str
    also: tuple[str, ...]
    text: str
    lessons: tuple[str, ...]

    @property
    def names(self):
        return (self.term, *self.also)


def parsed(page):
    """The entries of a glossary; whatever starts like one and is none fails."""
    body = re.sub(r"\n  +", " ", page)
    found = []
    for line in re.findall(r"^- .+$", body, re.MULTILINE):
        match = ENTRY.match(line)
        assert match, f"not an entry: {line}"
        also = tuple((match["also"] or "").split(", ")) if match["also"] else ()
        found.append(
            Entry(match["term"], also, match["text"], tuple(re.findall(r"\d\d", match["lessons"])))
        )
    return found


PAGE = (PROJECT / "GLOSSARY.md").read_text(encoding="utf-8")
GLOSSARY = parsed(PAGE)


SCRIPTS = {script.stem[:2]: script for script in lessons.scripts()}
TEXTS = {number: path.read_text(encoding="utf-8") for number, path in SCRIPTS.items()}


def words(text):
    """Lower case, with neither markup nor the breaks of lines."""
    return " ".join(re.sub(r"^# |[-_*`#\"()]", " ", text, flags=re.MULTILINE).lower().split())


def stem(word):
    """The word without its ending, so that "quantized" is "quantization"."""
    shorter = re.sub(r"(ations?|ivity|ive|ing|ed|es|e|s|y)$", "", word)
    return shorter if len(shorter) >= 4 else word


def occurs(name, text):
    """Whether ``name`` is in ``text`` (of :func:`words`), in any inflection."""
    pattern = r" ".join(re.escape(stem(word)) + r"\w{0,6}" for word in words(name).split())
    return re.search(rf"(?<!\w){pattern}(?!\w)", text) is not None


def absent(entries, texts):
    """(term, lesson) where the lesson has neither the term nor a synonym."""
    plain = {number: words(text) for number, text in texts.items()}
    return [
        (entry.term, number)
        for entry in entries
        for number in entry.lessons
        if not any(occurs(name, plain[number]) for name in entry.names)
    ]


def bold(script):
    """What a lesson's text prints in bold, but for its bones."""
    cells = jupytext.read(script, fmt="py:percent").cells
    texts = [" ".join(cell.source.split()) for cell in cells if cell.cell_type == "markdown"]
    found = [phrase for text in texts for phrase in re.findall(r"\*\*(.+?)\*\*", text)]
    return {phrase for phrase in found if not BONES.fullmatch(phrase)}


def stems(phrase):
    return " ".join(map(stem, words(phrase).split()))


def unexplained(phrases, entries):
    """The phrases that are neither emphasis nor in the glossary."""
    known = {stems(name) for entry in entries for name in entry.names}
    return {phrase for phrase in phrases - EMPHASIS if stems(phrase) not in known}


def private_words(text):
    """The course's own words in ``text``, each with the field's."""
    plain = " ".join(re.sub(r"^# ", "", text, flags=re.MULTILINE).split())
    return {
        match.group(): field
        for own, field in PRIVATE.items()
        for match in re.finditer(rf"\b(?:{own})", plain, re.IGNORECASE)
    }


def order(entry):
    return re.sub(r"[^a-z0-9 ]", "", entry.term.lower().replace("-", " "))


def faults(entries):
    """What is wrong with the page by itself."""
    names = [name.lower() for entry in entries for name in entry.names]
    found = [f"{name} is there twice" for name in {*names} if names.count(name) > 1]
    if sorted(entries, key=order) != entries:
        found.append("not in alphabetical order")
    for entry in entries:
        new = {stem(word) for word in words(entry.text).split()} - {*stems(entry.term).split()}
        if len(new) < 5:
            found.append(f"{entry.term}: no definition")
    return found


def test_every_entry_occurs_in_its_lessons():
    assert absent(GLOSSARY, TEXTS) == []


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=lambda script: script.stem)
def test_what_a_lesson_prints_in_bold_is_explained(script):
    assert unexplained(bold(script), GLOSSARY) == set()


def test_each_emphasis_is_still_in_use():
    assert {phrase for script in SCRIPTS.values() for phrase in bold(script)} >= EMPHASIS


def test_a_bold_term_names_a_lesson_in_which_it_is_bold():
    by_stem = {stems(name): entry for entry in GLOSSARY for name in entry.names}
    named = {}
    for number, script in SCRIPTS.items():
        for phrase in bold(script) - EMPHASIS:
            if entry := by_stem.get(stems(phrase)):
                named[entry.term] = named.get(entry.term, False) or number in entry.lessons
    assert [term for term, found in named.items() if not found] == []


def test_entries_are_sorted_unique_and_defined():
    assert faults(GLOSSARY) == []
    assert 80 <= len(GLOSSARY) <= 140
    headings = re.findall(r"^## (.)$", PAGE, re.MULTILINE)
    assert headings == sorted({entry.term[0].upper() for entry in GLOSSARY})


def test_links_lead_to_the_lessons():
    linked = dict(re.findall(r"^\[(\d\d)\]: (\S+)$", PAGE, re.MULTILINE))
    assert all((PROJECT / path).name.startswith(number) for number, path in linked.items())
    assert all((PROJECT / path).is_file() for path in linked.values())
    named = {number for entry in GLOSSARY for number in entry.lessons}
    assert named == {*linked} == {*re.findall(r"\[(\d\d)\]", PAGE)}
    assert "](../GLOSSARY.md)" in TEXTS["00"]
    assert "(GLOSSARY.md)" in (PROJECT / "README.md").read_text(encoding="utf-8")


DATA = ["data/claims.json", *(f"data/interview/lesson{name}.yaml" for name in TEXTS)]
PAGES = ["GLOSSARY.md", "README.md", *(name for name in DATA if (PROJECT / name).is_file())]


@pytest.mark.parametrize("name", [*PAGES, *TEXTS])
def test_the_words_are_those_of_the_field(name):
    text = TEXTS.get(name) or (PROJECT / name).read_text(encoding="utf-8")
    assert private_words(text) == {}


# The checks can fail


def test_what_is_wrong_is_found():
    assert absent([Entry("lottery ticket", (), "", ("01",))], TEXTS) == [("lottery ticket", "01")]
    assert unexplained({"hypernetwork", "one point", "quantize"}, GLOSSARY) == {"hypernetwork"}
    assert "not in alphabetical order" in faults(GLOSSARY[::-1])
    assert "mask is there twice" in faults([*GLOSSARY, Entry("z", ("mask",), PAGE, ())])
    assert faults([Entry("mask", (), "What masks are.", ())]) == ["mask: no definition"]
    with pytest.raises(AssertionError, match="not an entry"):
        parsed("- **mask** a tensor")


@pytest.mark.parametrize(
    ("text", "own"),
    [
        ("# Then silence\n# the channel.", "silence the"),
        ("A value that is none.", "value that is none"),
        ("with masks.hold(net, found):", "masks.hold"),
        ("Retraining is dear.", "dear"),
        ("The interval holds\n# zero.", "holds zero"),
    ],
)
def test_a_private_word_is_found(text, own):
    assert list(private_words(text)) == [own]


def test_a_new_bold_word_is_found(tmp_path):
    script = tmp_path / "99_new.py"
    script.write_text("# %% [markdown]\n# A **hyper\n# network** and **Exercise 99.1.**\n")
    assert unexplained(bold(script), GLOSSARY) == {"hyper network"}

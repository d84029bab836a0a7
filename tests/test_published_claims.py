"""Published rows answer what claims ask, and decide only what was not measured."""

import json
import shutil

import pytest

from course_lib.experiments.published import PublishedError, rows, select
from course_lib.measuring.estimates import Estimate
from course_lib.networks.data import DATA, checksums, sha256
from course_lib.teaching import claims, progress, report
from course_lib.teaching.published_claims import QUESTIONS, PublishedValue, published_values

CONTEXT = "2048 x 2048 in float32"
SHIPPED = claims.load()

#: What a computer without a GPU measures for each claim.
ON_CPU = {
    "C06": {"csr_90_vector_cpu": 1.6, "csr_90_batch_cpu": 2.9},
    "C07": {"together_over_anywhere": 1.0, "price_of_a_weight": 6.2},
    "C08": {"csr_95_cpu": 4.9, "bsr_90_cpu": 2.8},
}


@pytest.fixture(autouse=True)
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("PRUNING_COURSE_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(claims, "recordings", lambda: {})


def about(value):
    return Estimate(value, value - 0.05, value + 0.05)


def recorded(name, **more):
    """The card of a claim, measured on a CPU, and ``more``."""
    values = ON_CPU[name] | more
    return claims.record(name, {key: about(value) for key, value in values.items()}, CONTEXT)


# The values


def test_every_question_is_about_a_test_on_a_gpu_and_is_answered():
    on_gpu = {
        test.quantity
        for claim in SHIPPED.values()
        for test in claim.tests
        if test.hardware == "gpu"
    }
    assert QUESTIONS.keys() <= on_gpu
    assert on_gpu - QUESTIONS.keys() == {"csr_90_gpu_32", "csr_95_gpu"}
    found = published_values([*on_gpu, "gap_90"])
    assert {name: len(values) for name, values in found.items()} == {
        "csr_90_gpu_16": 1,
        "price_of_a_weight_gpu": 6,
        "two_four_gpu": 2,
        "csr_95_vector_gpu": 6,
        "blocks_90_gpu": 1,
    }


def test_a_value_is_the_median_over_shapes_and_its_range_their_extremes():
    (value,) = published_values(["csr_90_gpu_16"])["csr_90_gpu_16"]
    assert (value.value, *value.range) == (0.401, 0.401, 0.2875, 0.5673)
    assert value.origin == (
        "published by VENOM (Castro et al., SC 2023): RTX 3090, unstructured CSR, Sputnik, over "
        "cuBLAS fp16, tensor cores, fp16 accumulate; weights from 768 x 768 to 4096 x 1024 times "
        "2048 or more columns"
    )


def test_a_single_figure_has_no_range():
    single, _ = published_values(["two_four_gpu"])["two_four_gpu"]
    assert single.value == 1.114 and single.range is None
    assert "cuSPARSELt issue #57 (NVIDIA/CUDALibrarySamples, 2022): A100, " in single.origin
    assert single.origin.endswith("; 4096 x 4096 times 4096 columns; CUDA 11.5")


def test_the_price_of_a_weight_is_computed_from_the_speedup_and_says_so():
    # At 2.5x with a tenth of the weights, each takes 1 / 2.5 / 0.1 = 4 times as long.
    for value in published_values(["price_of_a_weight_gpu"])["price_of_a_weight_gpu"]:
        row = value.row
        assert value.value == pytest.approx(10 / row.speedup)
        ends = (10 / row.spread.highest, 10 / row.spread.lowest)
        assert (value.range.low, value.range.high) == pytest.approx(ends)
        assert value.origin.startswith(f"computed from {row.speedup:.2f}x, published by ")
        assert value.origin.endswith("to 49152 x 12288 times 1 column")


def test_a_damaged_row_is_an_error(tmp_path):
    shutil.copytree(DATA / "published", tmp_path / "published")
    file = tmp_path / "published" / "gpu.csv"
    file.write_text(file.read_text().replace("float16", "fp16"))
    known = checksums() | {"published/gpu.csv": sha256(file)}
    lines = (f"{digest}  {name}\n" for name, digest in known.items())
    (tmp_path / "SHA256SUMS").write_text("".join(lines))
    with pytest.raises(PublishedError, match="dtype is 'fp16'"):
        published_values(["two_four_gpu"], tmp_path)
    assert published_values(["gap_90"], tmp_path) == {}


# The rules

SOME = select(rows(), gpu="RTX 3060")[0]


def value(number, error=0.1):
    """A published value; without an error it has no interval."""
    ends = Estimate(number, number - error, number + error) if error else None
    return PublishedValue(number, ends, SOME)


def judged(*values, exists=False, **measured):
    """The verdict on a claim about a GPU with one test on a CPU and one on a GPU, at most 1."""
    tests = [
        claims.Test(name, "x", "01", name, f"on a {name}", "why", at_most=1, hardware=name)
        for name in ("cpu", "gpu")
    ]
    claim = claims.Claim("C99", "says", ("01",), "shows", (), tuple(tests), "gpu", exists)
    found = {name: about(number) for name, number in measured.items()}
    return claims.judge(claim, found, {"gpu": values})


@pytest.mark.parametrize(
    ("values", "exists", "kind"),
    [
        ([value(0.5)], False, "holds"),
        ([value(1.5)], False, "does not hold"),
        ([value(1.0)], False, "undecided"),  # its range is on both sides
        ([value(0.5), value(0.6)], False, "holds"),
        ([value(0.5), value(1.5)], False, "undecided"),  # two sources disagree
        ([value(0.5, error=0)], False, "undecided"),  # a figure without an interval
        ([value(1.5, error=0)], False, "undecided"),
        ([value(0.5, error=0), value(0.6, error=0)], False, "undecided"),
        ([value(0.5), value(0.6, error=0)], False, "holds"),
        ([value(0.5), value(1.6, error=0)], False, "undecided"),  # but it can disagree
        ([value(0.5, error=0)], True, "holds"),  # seen once
        ([value(1.5), value(0.5, error=0)], True, "holds"),
        ([value(1.5), value(1.0)], True, "undecided"),
        ([value(1.5)], True, "does not hold"),
        ([value(1.5, error=0)], True, "undecided"),
        ([], True, "undecided"),
    ],
)
def test_published_values_decide_together(values, exists, kind):
    verdict = judged(*values, exists=exists, cpu=0)
    assert verdict.kind == kind
    assert verdict.text.count("on a gpu [published]") == bool(values)


def test_what_is_measured_comes_first():
    assert judged(value(0.5), cpu=0, gpu=3).text == "does not hold on a gpu"
    assert judged(value(1.5), cpu=0, gpu=0).text == "holds on a gpu"


def test_a_claim_of_which_nothing_was_measured_stays_untested():
    verdict = judged(value(0.5))
    assert (verdict.kind, verdict.text) == ("untested", "untested: lesson 01 tests it")
    assert len(verdict.outcomes[1].published) == 1  # shown all the same


# The shipped claims


@pytest.mark.parametrize(
    ("name", "before", "after", "text"),
    [
        (
            "C06",
            "undecided",
            "holds",
            "holds on a GPU with 16-bit numbers [published] (lesson 05 measures the rest)",
        ),
        (
            "C07",
            "holds when",
            "holds when",
            "holds for the overhead of each weight and for the overhead of each weight on a GPU "
            "[published]; not for the places of the weights while the input fits into a cache "
            "(lesson 05 measures the rest)",
        ),
        (
            "C08",
            "undecided",
            "undecided",
            "undecided: does not hold against CSR at 95 % for one vector on a GPU [published] and "
            "against blocks of 8 on a GPU [published]; too close to call for 2:4 on a GPU "
            "[published] (lesson 05 measures the rest)",
        ),
    ],
)
def test_verdicts_without_a_gpu(name, before, after, text):
    measured = {key: about(value) for key, value in ON_CPU[name].items()}
    assert claims.judge(SHIPPED[name], measured).kind == before
    card = recorded(name)
    assert (card.verdict.kind, card.verdict.text) == (after, text)
    assert card.here == card.verdict


def test_a_gpu_of_ones_own_replaces_what_was_published():
    card = recorded("C06", csr_90_gpu_16=1.4)
    assert card.verdict.text == (
        "does not hold on a GPU with 16-bit numbers (lesson 05 measures the rest)"
    )
    assert "VENOM" not in card.sentence and "0.40 x (0.29 to 0.57)" in repr(card)


def test_the_card_shows_each_published_value_with_its_source_apart_from_the_own_ones():
    shown = dict(recorded("C08").rows())
    assert not any("published" in line for line in shown["your machine"])
    first, *values = shown["published"]
    assert first.endswith("4096 columns in float16, on a GPU, target: at least 1.2 x:")
    assert values[0].startswith(
        "- 1.11 x (published without an interval), ✘ missed, published by cuSPARSELt issue #57 ("
    )
    assert values[1].startswith("- 1.64 x (1.20 to 1.99), ✔ reached, published by VENOM (Castro")
    assert sum(line.startswith("- ") for line in shown["published"]) == 9
    assert any("different dense baselines" in line for line in shown["caution"])
    assert "; published by Magicube (Li et al., SC 2022)" in shown["verdict"][0]


def test_a_claim_that_nobody_published_on_has_no_row_for_it():
    card = claims.record("C13", {"gap_90": Estimate(1, 0.5, 1.5)}, CONTEXT)
    assert [heading for heading, _ in card.rows()] == ["textbook", "your machine", "verdict"]


def test_published_values_are_not_stored():
    recorded("C06")
    assert progress.read()["claims"]["C06"].keys() == ON_CPU["C06"].keys()
    assert "published" not in json.dumps(progress.read()["claims"])


def test_the_report_shows_them_in_a_table_of_their_own(tmp_path):
    recorded("C06")
    report.write(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    (section,) = (part for part in text.split("\n### ") if part.startswith("C06"))
    own, beside = section.split("| what | target | published | by |")
    assert "0.40" not in own and "published by VENOM (Castro et al., SC 2023)." in own
    assert "| 0.40 x (0.29 to 0.57), ✔ reached | published by VENOM (Castro et al., SC" in beside
    assert "Caution: VENOM compares with dense products that accumulate in 16 bits." in beside
    assert text.count("| what | target | published | by |") == 3

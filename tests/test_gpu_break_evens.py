"""Break-evens of a recording are summarized over shapes and stand beside their like."""

import sys
from itertools import chain

import pytest

from course_lib import PROJECT
from course_lib.experiments import published, recordings, sparse_vs_dense
from course_lib.experiments.recordings import COURSE
from course_lib.teaching import gpu_break_evens
from course_lib.teaching.gpu_break_evens import (
    Shapes,
    compared,
    datasheet_of,
    drawn,
    measured_on,
    over_shapes,
    show,
    table,
)

SPARSITIES = sparse_vs_dense.SPARSITIES


def point(rows, batch, dtype, sparsity, speedup, kind="CSR"):
    product = {"matrix": f"square {rows}", "rows": rows, "batch": batch, "dtype": dtype}
    return product | {"target_sparsity": sparsity, "format": kind, "speedup": speedup}


def line(rows, batch, dtype, even, kind="CSR"):
    """Points of a format whose time is proportional to what is left; as fast as dense at `even`."""
    return [
        point(rows, batch, dtype, sparsity, (1 - even) / (1 - sparsity), kind)
        for sparsity in SPARSITIES
    ]


def recording(*lines, gpu="Tesla T4"):
    machine = {"CUDA GPU": gpu, "processor": "a processor"}
    return {"device": "cuda", "machine": machine, "points": [*chain(*lines)]}


# --- over shapes --------------------------------------------------------------------------------


def test_shapes_that_break_even_have_a_median_and_the_others_are_counted():
    even, never = {0.5: 0.5, 0.9: 2.5}, {0.5: 0.1, 0.9: 0.5}
    at_once, later = {0.5: 1.5, 0.9: 7.5}, {0.5: 0.4, 0.9: 2.0}
    found = over_shapes([even, never, at_once, later])
    assert found[:1] + found[4:] == (4, 1, 1, 0.9)
    assert found.lowest == pytest.approx(0.75) and found.highest == pytest.approx(0.8)
    assert found.median == pytest.approx((0.75 + 0.8) / 2)
    assert str(found) == (
        "77.5 % (75 % to 80 %); never up to 90 % in 1 of 4 shapes; at every sparsity measured in 1 "
        "of 4 shapes"
    )


@pytest.mark.parametrize(
    ("speedups", "text"),
    [
        ((0.1, 0.5), "never up to 90 %"),
        ((1.1, 5.5), "at every sparsity measured"),
        ((0.5, 2.5), "75 %"),
    ],
)
def test_shapes_that_are_alike_need_no_counts(speedups, text):
    found = over_shapes([dict(zip((0.5, 0.9), speedups, strict=True))] * 3)
    assert str(found) == text and found.shapes == 3


# --- what is compared ---------------------------------------------------------------------------


def test_the_recorded_break_even_comes_first_then_the_datasheet_then_the_published_ones():
    found = compared(recording(line(4096, 1, "float16", 0.8), line(4096, 512, "float32", 0.7)))
    origins = {(each.columns, each.dtype): [] for each in found}
    for each in found:
        origins[each.columns, each.dtype].append(each.origin)
    vector, batch = origins[("one vector", "float16")], origins[("128 columns or more", "float32")]
    assert len(origins) == 2 and vector == ["recorded", "computed"] + ["published"] * 9
    assert batch == ["recorded", "computed"] + ["published"] * 3
    assert found[0].what == "Tesla T4, CSR" and found[0].sparsity.median == pytest.approx(0.8)


def test_the_published_rows_are_of_the_same_dtype_columns_and_kind():
    found = compared(recording(line(4096, 512, "float16", 0.8, "BSR 16")))
    rows = [each.row for each in found if each.origin == "published"]
    assert len(rows) == 4 and {row.kind for row in rows} == {"unstructured", "blocks"}
    assert all(row.dtype == "float16" and row.columns.least >= 128 for row in rows)
    assert "Magicube, 2022" in found[-2].what and "VENOM, 2023" in found[-1].what
    for each in found[-4:]:
        assert each.sparsity.median == each.row.median


def test_small_matrices_count_only_where_there_are_no_large_ones():
    small, large = line(512, 1, "float16", 0.95), line(4096, 1, "float16", 0.8)
    found = [compared(recording(*lines))[0].sparsity for lines in ([small], [small, large])]
    assert [(each.shapes, each.median) for each in found] == [
        (1, pytest.approx(0.95)),
        (1, pytest.approx(0.8)),
    ]


def test_a_shape_that_is_not_finished_does_not_count():
    unfinished = line(2048, 1, "float16", 0.6)[:-1]
    [first, *_] = compared(recording(line(4096, 1, "float16", 0.8), unfinished))
    assert first.sparsity.shapes == 1 and first.sparsity.median == pytest.approx(0.8)
    assert compared(recording(unfinished)) == []
    assert "run the recording cell again" in table([])


def test_batches_between_one_and_many_and_other_dtypes_are_left_out():
    assert compared(recording(line(4096, 8, "float16", 0.8), line(4096, 1, "bfloat16", 0.8))) == []


def test_without_a_rate_in_16_bits_nothing_is_computed(monkeypatch):
    sheet = datasheet_of("Tesla T4")._replace(fp16_tflops=None)
    monkeypatch.setattr(gpu_break_evens, "datasheet_of", lambda gpu: sheet)
    lines = line(4096, 512, "float16", 0.9), line(4096, 512, "float32", 0.7)
    computed = [each.dtype for each in compared(recording(*lines)) if each.origin == "computed"]
    assert computed == ["float32"]


def test_the_recording_of_the_course_is_of_a_processor():
    found = recordings.read(PROJECT / "data/recordings" / COURSE / "sparse_vs_dense.json")
    assert measured_on(found) == found["machine"]["processor"]
    here = compared(found)
    assert {each.dtype for each in here} >= {"float32"}
    assert {each.origin for each in here} == {"recorded", "published"}


@pytest.mark.parametrize(
    ("gpu", "sheet"),
    [
        ("Tesla T4", "Tesla T4"),
        ("NVIDIA A100-SXM4-40GB", "A100 SXM4 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 SXM4 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100 SXM"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA L4", "L4"),
        ("Tesla V100-SXM2-16GB", "V100 SXM2"),
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("Tesla P100-PCIE-16GB", None),
        ("none", None),
    ],
)
def test_the_datasheet_is_found_by_the_name_that_cuda_gives(gpu, sheet):
    found = datasheet_of(gpu)
    assert (found and found.gpu) == sheet
    assert not found or found.accumulation in ("", "float32")


# --- showing ------------------------------------------------------------------------------------


def found_here(gpu="Tesla T4"):
    lines = line(4096, 1, "float16", 0.8), line(4096, 512, "float16", 0.999, "BSR 16")
    return compared(recording(*lines, gpu=gpu))


def test_the_table_has_every_row_under_its_heading_and_all_warnings():
    found = found_here()
    text = table(found)
    assert text.startswith("one vector, float16\n  recorded   Tesla T4, CSR  ")
    assert "\n\n128 columns or more, float16\n  recorded   Tesla T4, BSR 16" in text
    assert all(each.what in text and str(each.sparsity) in text for each in found)
    warnings = published.warnings_of(each.row for each in found if each.row)
    assert len(warnings) == 4 and text.endswith("\n".join(warnings))
    assert "Nothing is computed" not in text
    assert "Nothing is computed: data/published has no datasheet" in table(found_here("H200"))


def test_the_figure_has_a_panel_per_heading_and_names_every_row():
    found = found_here()
    figure = drawn(found)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [
        "one vector, float16",
        "128 columns or more, float16",
    ]
    labels = [label.get_text() for axes in figure.axes for label in axes.get_yticklabels()]
    assert labels == [each.what for each in found]
    written = [text.get_text() for text in figure.axes[1].texts]
    assert written[0] == "never up to 99.5 %" and "never in 8 of 12 shapes" in written


def test_without_matplotlib_the_table_has_to_do(monkeypatch, capsys):
    monkeypatch.delitem(sys.modules, "course_lib.teaching.figures", raising=False)
    monkeypatch.delattr("course_lib.teaching.figures", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    show(found_here())
    assert "no figure without matplotlib" in capsys.readouterr().out


def test_nothing_is_drawn_of_nothing(capsys):
    show([])
    assert capsys.readouterr().out == ""


def test_a_range_of_one_value_is_one_value():
    assert str(Shapes(1, 0.75, 0.75, 0.75, 0, 0, 0.99)) == "75 %"

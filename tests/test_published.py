"""Published rows are checked when they are read, know their source, and say what was found."""

import csv
import hashlib
import io
import json
import shutil

import pytest

from course_lib.experiments import published, recordings
from course_lib.experiments.published import (
    KINDS,
    SCOPES,
    PublishedError,
    break_evens,
    card,
    datasheets,
    peaks,
    rows,
    select,
    sources,
    warnings_of,
)
from course_lib.measuring.break_even import TFLOPS, Card
from course_lib.networks.data import DATA, DataError

ROWS_OF = {
    "venom": 43,
    "venom_e2e": 18,
    "nmspmm": 24,
    "macko": 66,
    "macko_sputnik": 33,
    "magicube": 36,
    "sam_fast": 10,
    "superblock": 16,
    "pt_tutorial": 9,
    "torchao_sam": 2,
    "torchao_llama": 1,
    "torchao_train": 2,
    "nvidia_dla": 16,
    "sgk_mbv1": 3,
    "torch_pruning": 21,
    "cutlass_1335": 1,
    "cutlass_408": 1,
    "cusparselt_57": 1,
    "cusparselt_203": 1,
    "pt_90119": 22,
    "pt_150578": 8,
    "ao_174": 12,
    "torchao_2012": 6,
}


def the(found):
    """The only entry of ``found``."""
    (one,) = found
    return one


def break_even(gpu, kernel, source):
    return the(
        one
        for one in break_evens()
        if one.gpu.startswith(gpu) and kernel in one.kernel and one.source.id == source
    )


# The shipped files


def test_every_source_has_its_rows():
    counts = {name: sum(row.source.id == name for row in rows()) for name in sources()}
    assert counts == ROWS_OF and sum(counts.values()) == len(rows()) == 352


def test_every_row_has_a_kind_and_a_scope_and_every_kind_and_scope_has_rows():
    assert {row.kind for row in rows()} == {*KINDS}
    assert {row.scope for row in rows()} == {*SCOPES}
    for row in rows():
        assert row.kernel.startswith(row.kind.removesuffix("s"))
    assert {row.sparsity for row in select(rows(), kind="dense")} == {0}


def test_all_files_together_are_small():
    assert sum(file.stat().st_size for file in (DATA / "published").iterdir()) < 120_000


def test_the_recordings_offer_the_same_rows():
    assert recordings.published() == rows()


def test_a_source_is_shown_by_its_authors_paper_or_repository_and_its_year():
    shown = {name: str(source) for name, source in sources().items()}
    assert shown["venom"] == "VENOM (Castro et al., SC 2023)"
    assert shown["macko"] == "MACKO (arXiv 2511.13061, 2025)"
    assert shown["nmspmm"] == "NM-SpMM (M-H482/NM-SpMM, 2024)"
    assert shown["pt_tutorial"] == "PyTorch tutorial on 2:4 (pytorch/tutorials, undated)"
    assert len({*shown.values()}) == len(shown)


def test_every_source_says_where_its_numbers_are_and_under_which_licence():
    for source in sources().values():
        assert source.licence and source.gpus and "/" in source.repository
        assert source.commit or source.read_from == "issue or pull request"
        assert source.year or source.read_from == "table in documentation"


def test_a_row_is_shown_with_its_spread_or_as_published_without_an_interval():
    many = the(select(rows(), gpu="RTX 3090", kernel="cuSPARSELt", scope="product"))
    assert str(many) == (
        "VENOM (Castro et al., SC 2023): RTX 3090, 2:4 cuSPARSELt 0.3.0, 50 %: "
        "1.64x (1.20 to 1.99 over 44 shapes)"
    )
    single = the(select(rows(), kernel="Ampere kernels"))
    assert str(single).endswith("50 %: 0.62x, published without an interval")


def test_what_was_inferred_is_marked():
    marked = {(row.source.id, *row.inferred) for row in rows() if row.inferred}
    assert marked == {("torchao_2012", "gpu"), ("nvidia_dla", "dtype"), ("torch_pruning", "dtype")}


def test_no_datasheet_has_a_value_from_memory_and_inferred_ones_are_marked():
    assert not any("memory)" in sheet.seen_in + sheet.note for sheet in datasheets())
    found = {(sheet.gpu, sheet.accumulation): sheet for sheet in datasheets()}
    assert len(found) == len(datasheets()) == 13
    left_out = {
        (gpu, field)
        for (gpu, _), sheet in found.items()
        for field in ("int8_tops", "bandwidth_gb_s", "l2_mb")
        if getattr(sheet, field) is None
    }
    assert left_out == {
        ("V100 SXM2", "int8_tops"),
        ("H100 PCIe", "int8_tops"),
        ("L4", "l2_mb"),
        ("RTX 3090", "int8_tops"),
        ("RTX 4090", "int8_tops"),
        ("RTX 4090", "l2_mb"),
        ("Jetson AGX Orin 64GB, GPU", "bandwidth_gb_s"),
        ("Jetson AGX Orin 64GB, 2x DLA", "int8_tops"),
        ("Jetson AGX Orin 64GB, 2x DLA", "bandwidth_gb_s"),
        ("Jetson AGX Orin 64GB, 2x DLA", "l2_mb"),
    }
    slow = found["RTX 3090", "float32"]
    assert slow.inferred == ("fp16_tflops", "fp16_2_4_tflops") and "half" in slow.note
    assert slow.fp16_tflops == found["RTX 3090", "float16"].fp16_tflops / 2
    assert found["RTX 4090", "float32"].measured == ("fp16_tflops",)
    assert all(sheet.note for sheet in datasheets() if sheet.inferred or sheet.measured)


def test_a_datasheet_is_a_card_of_the_models():
    names = ("A100 SXM4 40GB", "V100 SXM2", "L4", "H100 PCIe")
    cards = {sheet.gpu: card(sheet) for sheet in datasheets() if sheet.gpu in names}
    assert cards["A100 SXM4 40GB"] == Card(
        "A100 SXM4 40GB", 19.5 * TFLOPS, 312 * TFLOPS, 624 * TFLOPS, 1555e9, 40 * 2**20
    )
    assert cards["V100 SXM2"].two_four is None, "it has no sparse tensor cores: 0 in the file"
    assert cards["L4"].l2 is None and cards["H100 PCIe"].fp16 == 756 * TFLOPS


def test_a_card_with_two_rows_is_named_with_its_accumulation():
    both = [card(sheet) for sheet in datasheets() if sheet.gpu == "RTX 3090"]
    assert [one.name for one in both] == ["RTX 3090, float16 sums", "RTX 3090, float32 sums"]
    assert [one.fp16 for one in both] == [142 * TFLOPS, 71 * TFLOPS]


@pytest.mark.parametrize("end", ["GPU", "2x DLA"])
def test_a_datasheet_without_rate_or_bandwidth_is_no_card(end):
    sheet = the(one for one in datasheets() if one.gpu.endswith(end))
    with pytest.raises(PublishedError, match=rf"for the {sheet.gpu}: .*bandwidth_gb_s None"):
        card(sheet)


def test_dense_products_reach_seven_to_nine_tenths_of_the_datasheet():
    assert {(peak.gpu, peak.dtype): peak.share for peak in peaks()} == {
        ("A100 SXM", "bfloat16"): 0.869,
        ("H100 SXM", "bfloat16"): 0.803,
        ("H100 SXM", "float8"): 0.709,
    }


# What the rows say


def test_on_a_3090_in_16_bits_many_columns_take_longer_with_90_percent_zeros_but_not_in_2_4():
    many = {"gpu": "RTX 3090", "dtype": "float16", "columns": 4096, "scope": "product"}
    csr = the(select(rows(), kind="unstructured", sparsity=0.9, **many))
    assert round(csr.speedup, 2) == 0.40 and csr.spread.highest < 1
    even = break_even("RTX 3090", "CSR", "venom")
    assert even.median == 0.975 and (even.never, even.from_start) == (0, 0)
    two_four = the(select(rows(), kind="2:4", sparsity=0.5, **many))
    assert round(two_four.speedup, 2) == 1.64 and two_four.spread.lowest > 1


def test_the_same_kernel_in_32_bits_breaks_even_on_an_a100_and_never_on_geforce_cards():
    on_a100 = break_even("A100", "Sputnik", "nmspmm")
    assert round(on_a100.median, 2) == 0.80 and on_a100.never == 0
    for gpu in ("RTX 3090", "RTX 4090"):
        on_card = break_even(gpu, "Sputnik", "nmspmm")
        assert on_card.median is None and on_card.never == on_card.shapes == 100
        assert on_card.highest_sparsity == 0.875


def test_for_a_single_vector_zeros_anywhere_pay_early():
    vectors = [one for one in break_evens() if one.columns.include(1)]
    assert all(one.kind == "unstructured" and one.dtype == "float16" for one in vectors)
    csr = [one.median for one in vectors if "cuSPARSE" in one.kernel]
    assert [round(min(csr), 2), round(max(csr), 2)] == [0.69, 0.85]
    macko = [one.median for one in vectors if "MACKO" in one.kernel]
    assert [round(min(macko), 2), round(max(macko), 2)] == [0.21, 0.29]


def test_blocks_of_8_break_even_at_84_percent_on_an_a100():
    assert break_even("A100", "block 8x8", "magicube").median == 0.84
    small = [break_even("A100", f"block {size}x{size}", "magicube") for size in (2, 4)]
    assert all(one.median > 0.9 and one.never == 8 for one in small)


def test_whole_networks_gain_far_less_than_products():
    (vit_h,) = (
        row
        for row in select(rows(), kind="2:4", scope="network", dtype="bfloat16")
        if row.what.startswith("vit_h_14")
    )
    assert round(vit_h.speedup, 2) == 1.07 and vit_h.spread is None


def test_16_bit_numbers_give_a_segmenter_far_more_than_2_4():
    sam = [row for row in rows() if row.source.id == "sam_fast" and row.dtype == "bfloat16"]
    bits = sorted(row.speedup for row in sam if row.kind == "dense")
    assert [round(each, 1) for each in bits] == [3.3, 5.3]
    two_four = [row for row in rows() if row.source.id in ("sam_fast", "torchao_sam")]
    gains = [row.speedup for row in two_four if row.kind == "2:4"]
    assert [round(min(gains), 2), round(max(gains), 2)] == [0.88, 1.09]


def test_kernels_of_the_generation_before_are_slower_on_an_h100():
    row = the(select(rows(), gpu="H100", kernel="Ampere"))
    assert round(row.speedup, 2) == 0.62 and row.spread is None


# Choosing


def test_select_takes_what_is_given():
    assert select(rows()) == [*rows()]
    assert len(select(rows(), gpu="A100")) > len(select(rows(), gpu="A100 80GB")) > 0
    assert {row.dtype for row in select(rows(), dtype="")} == {""}
    assert {str(row.columns) for row in select(rows(), columns=4096, gpu="A100")} == {
        "4096 columns",
        "2048 or more columns",
    }
    assert {str(row.columns) for row in select(rows(), columns=1)} == {"1 column"}
    assert {str(row.columns) for row in select(rows(), columns=200)} == {"128 to 256 columns"}
    assert select(rows(), columns=200, gpu="RTX") == []


@pytest.mark.parametrize("what", [{"kind": "CSR"}, {"scope": "model"}, {"dtype": "fp16"}])
def test_select_says_what_there_is(what):
    ((name, word),) = what.items()
    with pytest.raises(PublishedError, match=f"{name} is '{word}'; choose from "):
        select(rows(), **what)


# Warnings


def warned(*names, **what):
    return warnings_of(row for row in select(rows(), **what) if row.source.id in names)


def test_only_warnings_that_apply_are_given():
    assert warnings_of([]) == []
    assert warned("ao_174") == []
    assert warned("venom", kind="2:4") == [
        "Some authors have an interest in one of the kernels (VENOM: its authors measured a sparse "
        "kernel of their own, Spatha); the others may be tuned less well."
    ]


def test_different_dense_products_and_ways_to_accumulate_are_named():
    first, second, _ = warned("venom")
    assert first == (
        "The speed-ups are over different dense baselines (VENOM: cuBLAS fp16, tensor cores, fp32 "
        "accumulate / cuBLAS fp16, tensor cores, fp16 accumulate)."
    )
    assert second.startswith("VENOM compares with dense products that accumulate in 16 bits. On Ge")
    assert second.endswith(" VENOM compares with products that accumulate in 32 bits.")
    (only, _) = warned("venom", kind="unstructured")
    assert "accumulate in 16 bits" in only and only.endswith("sparse ones look slower.")


def test_flushed_caches_and_missing_warm_ups_are_named():
    both = warned("venom", "macko", "nmspmm", kind="unstructured")
    assert (
        "The ways of timing differ: before each run the cache was flushed in MACKO; not flushed in "
        "VENOM; not stated for NM-SpMM." in both
    )
    assert "Sputnik was timed without a warm-up in NM-SpMM." in both
    assert not any("cache" in one for one in warned("macko", "macko_sputnik"))
    assert not any("warm-up" in one for one in warned("nmspmm", kind="N:M"))


def test_break_evens_have_their_warnings():
    found = warnings_of(break_evens())
    assert len(found) == 5 and all(one.endswith(".") for one in found)
    interested = ("venom", "nmspmm", "macko", "macko_sputnik", "magicube")
    assert all(sources()[name].name in found[-1] for name in interested)


# Checks


@pytest.fixture
def root(tmp_path):
    shutil.copytree(DATA / "published", tmp_path / "published")
    return tmp_path


def signed(root):
    """``root``, with the checksums of its files."""
    lines = (
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  published/{file.name}\n"
        for file in (root / "published").iterdir()
    )
    (root / "SHA256SUMS").write_text("".join(lines))
    return root


def changed(root, name, **cells):
    """``root``, where the first row of the file has other cells."""
    file = root / "published" / name
    first, *others = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8")))
    assert cells.keys() <= first.keys()
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, [*first])
        writer.writeheader()
        writer.writerows([first | cells, *others])
    return signed(root)


@pytest.mark.parametrize(
    ("cells", "message"),
    [
        ({"source": "gossip"}, "source is 'gossip'; it must be one of 'venom'"),
        ({"gpu": "RTX 3061"}, "gpu is 'RTX 3061'; it must be one of 'RTX 3060'"),
        ({"dtype": "fp16"}, "dtype is 'fp16'; it must be one of 'float32'"),
        ({"inferred": "speedup"}, "inferred is 'speedup'; it must be some of gpu, dtype"),
        ({"kernel": "abacus"}, "kernel is 'abacus'; it must be one of "),
        ({"dense_baseline": ""}, "dense_baseline is ''; it must be a text"),
        ({"columns": "many"}, "columns is 'many'; it must be a count, such as"),
        ({"columns": "0"}, "columns is '0'; it must be a count"),
        ({"sparsity": "1.01"}, "sparsity is '1.01'; it must be a number, 0 to 1"),
        ({"sparsity": "-0.1"}, "sparsity is '-0.1'; it must be a number, 0 to 1"),
        ({"sparsity": "nan"}, "sparsity is 'nan'; it must be a number"),
        ({"sparsity": ""}, "sparsity is ''; it must be a number"),
        ({"shapes": "1.5"}, "shapes is '1.5'; it must be a whole number"),
        ({"shapes": "0"}, "shapes is '0'; it must be a number, 1 or more"),
        ({"speedup": "0"}, "speedup is '0'; it must be above 0"),
        ({"speedup": "fast"}, "speedup is 'fast'; it must be a number"),
        ({"q25": "1.5"}, "q25 is '1.5'; it must be one of ''"),
        ({"shapes": "2"}, "q25 is ''; it must be a number"),
        (
            {"shapes": "2", "q25": "1.8", "q75": "1.9", "lowest": "1", "highest": "2"},
            "speedup is '1.724'; it must be between its quartiles and extremes",
        ),
        (
            {"shapes": "2", "q25": "1.1", "q75": "1.9", "lowest": "1.2", "highest": "2"},
            "speedup is '1.724'; it must be between its quartiles and extremes",
        ),
        ({"what": ""}, "what is ''; it must be a text"),
    ],
)
def test_an_invalid_row_is_refused_with_file_line_field_and_value(root, cells, message):
    with pytest.raises(PublishedError) as error:
        rows(changed(root, "gpu.csv", **cells))
    assert str(error.value).startswith(f"data/published/gpu.csv, line 2: {message}")


@pytest.mark.parametrize(
    ("read", "name", "cells", "message"),
    [
        (rows, "kernels.csv", {"kind": "CSR"}, "kind is 'CSR'; it must be one of 'dense'"),
        (rows, "kernels.csv", {"scope": "CSR"}, "scope is 'CSR'; it must be one of 'product'"),
        (break_evens, "break_even.csv", {"kernel": "x"}, "kernel is 'x'; it must be one that gpu"),
        (
            break_evens,
            "break_even.csv",
            {"median": "0.96"},
            "median is '0.96'; it must be a number",
        ),
        (break_evens, "break_even.csv", {"median": "0.6"}, "median is '0.6'; it must be from lowe"),
        (break_evens, "break_even.csv", {"median": ""}, "median is ''; it must be given exactly"),
        (break_evens, "break_even.csv", {"lowest": ""}, "median is '0.757'; it must be from lowes"),
        (break_evens, "break_even.csv", {"never": "31"}, "median is '0.757'; it must be given"),
        (datasheets, "datasheet.csv", {"fp32_tflops": "fast"}, "fp32_tflops is 'fast'; it must"),
        (datasheets, "datasheet.csv", {"inferred": "memory"}, "inferred is 'memory'; it must be s"),
        (datasheets, "datasheet.csv", {"accumulation": "x"}, "accumulation is 'x'; it must be one"),
        (datasheets, "datasheet.csv", {"seen_in": ""}, "seen_in is ''; it must be a text"),
        (peaks, "measured_peak.csv", {"share": "0.9"}, "share is '0.9'; it must be reached / dat"),
        (peaks, "measured_peak.csv", {"dtype": "bf16"}, "dtype is 'bf16'; it must be one of"),
    ],
)
def test_the_other_files_are_checked_as_well(root, read, name, cells, message):
    with pytest.raises(PublishedError) as error:
        read(changed(root, name, **cells))
    assert str(error.value).startswith(f"data/published/{name}, line 2: {message}")


def test_a_line_with_too_few_or_too_many_cells_is_refused(root):
    file = root / "published" / "measured_peak.csv"
    for line in ("A100,float16\n", "A100,float16,1,1,1,here,there\n"):
        file.write_text("gpu,dtype,datasheet,reached,share,seen_in\n" + line)
        published.peaks.cache_clear()
        with pytest.raises(PublishedError, match="line 2: it must have 6 cells"):
            peaks(signed(root))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"year": "2023"}, "year is '2023', which has the wrong type"),
        ({"cache_flushed": 0}, "cache_flushed is 0, which has the wrong type"),
        ({"licence": ""}, "licence is ''; it must not be empty"),
        ({"gpus": []}, "gpus is []; it must not be empty"),
        ({"read_from": "hearsay"}, "read_from is 'hearsay', not one of result files"),
        ({"colour": "red"}, "missing or unknown fields ['colour']"),
    ],
)
def test_an_invalid_source_is_refused(root, fields, message):
    file = root / "published" / "sources.json"
    found = json.loads(file.read_text(encoding="utf-8"))
    found["venom"] |= fields
    file.write_text(json.dumps(found))
    with pytest.raises(PublishedError) as error:
        sources(signed(root))
    assert str(error.value).startswith(f"data/published/sources.json, venom: {message}")


def test_a_file_that_differs_from_its_checksum_is_refused(root):
    signed(root)
    with (root / "published" / "gpu.csv").open("a") as stream:
        stream.write("\n")
    with pytest.raises(DataError, match=r"data/published/gpu\.csv is damaged"):
        rows(root)


# --- predictions ------------------------------------------------------------------------------


def predictions(**what):
    found = [
        row
        for row in published.break_evens()
        if all(getattr(row, field) == value for field, value in what.items())
    ]
    return {(row.gpu, row.kernel): published.prediction(row) for row in found}


def test_a_datasheet_predicts_the_break_even_of_a_published_kernel():
    found = predictions(dtype="float32")
    sputnik = "unstructured CSR, Sputnik"
    expected = [found[gpu, sputnik].expected for gpu in ("A100 PCIe 80GB", "RTX 3090", "RTX 4090")]
    assert expected == sorted(expected)  # the more arithmetic for the bandwidth, the later
    assert found["RTX 3090", "N:M of 32 vector-wise, NM-SpMM"] is None  # no model
    assert {*predictions(gpu="RTX 2080 SUPER").values()} == {None}  # no datasheet


def test_the_accumulation_of_the_dense_product_chooses_the_datasheet():
    [in_16] = [row for row in published.break_evens() if row.source.id == "venom"][:1]
    in_32 = in_16._replace(dense_baseline="cuBLAS fp16, tensor cores, fp32 accumulate")
    assert published.prediction(in_16).ideal > published.prediction(in_32).ideal

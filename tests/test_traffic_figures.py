"""The picture of the sectors shows what the simulator counts, and fits in its figure."""

import matplotlib.pyplot as plt
import pytest

from course_lib.measuring import traffic
from course_lib.teaching import figures, traffic_figures

ONE, MANY = traffic.random_rows(1, 512, 0.9), traffic.random_rows(32, 512, 0.9)


@pytest.fixture(autouse=True)
def style():
    with plt.style.context(figures.STYLE):
        yield
    plt.close("all")


def titles(figure: plt.Figure) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def lit(axes: plt.Axes) -> list[int]:
    """How many cells are touched once, and how many more often."""
    shades = axes.collections[0].get_array().compressed()
    return [int((shades == shade).sum()) for shade in (1, 2)]


def test_the_cells_that_light_up_are_the_sectors_of_csr():
    loads = traffic.csr_warp_per_row(ONE)
    figure = traffic_figures.sectors(loads, "unstructured", "CSR")
    for (array, addresses), left, right in zip(
        loads.addresses.items(), figure.axes[::2], figure.axes[1::2], strict=True
    ):
        first = int(traffic.touched(addresses)[0])
        reads = loads.sectors()[array]
        assert lit(left) == [first, 0]
        assert left.get_title(loc="left") == f"{array}, one instruction: {first} sectors"
        assert f"{array}, whole row: {sum(lit(right))} sectors, {reads} accesses" in titles(figure)
    assert figure.get_suptitle() == f"CSR: {loads.total} sectors for {loads.macs} MACs"


def test_what_a_thread_per_row_touches_again_is_dark():
    figure = traffic_figures.sectors(traffic.csr_thread_per_row(MANY), "unstructured")
    values = figure.axes[1]
    once, again = lit(values)
    assert again > 0.9 * (once + again)
    shades = values.collections[0].get_cmap().colors
    assert shades[1] == figures.COLOURS["unstructured"]


def test_a_kernel_with_other_arrays_has_a_picture_of_its_last_instruction():
    loads = traffic.scatter(MANY)
    last = len(loads.addresses["values"]) - 1
    figure = traffic_figures.sectors(loads, "structured", "scatter", last)
    assert len(figure.axes) == 2 * len(loads.addresses)
    assert lit(figure.axes[0]) == [int(traffic.touched(loads.addresses["values"])[last]), 0]
    assert figures.picture(figure, "alt")["image/png"].startswith(b"\x89PNG")


@pytest.mark.parametrize("instruction", [-1, 2])
def test_an_instruction_that_does_not_exist_is_refused(instruction):
    with pytest.raises(ValueError, match=f"instructions 0 to 1; got {instruction}"):
        traffic_figures.sectors(traffic.csr_warp_per_row(ONE), "unstructured", "", instruction)


@pytest.mark.parametrize("kernel", traffic_figures.KERNELS)
def test_each_kernel_can_be_explored(kernel):
    figure = traffic_figures.explore(kernel, "95 %", "clustered")
    assert figure.get_suptitle().startswith(f"{kernel}: ")
    assert figure.get_figheight() < 12


def test_what_is_explored_follows_the_choices():
    sparsity, columns = traffic_figures.CHOICES["sparsity"], traffic_figures.CHOICES["columns"]
    chosen = [*((each, columns[0]) for each in sparsity), *((sparsity[0], c) for c in columns[1:])]
    found = [traffic_figures.explore("CSR, warp per row", *each) for each in chosen]
    assert len({figure.get_suptitle() for figure in found}) == len(chosen)

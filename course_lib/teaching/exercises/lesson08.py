"""The exercises of lesson 08: embedding tables, heads, OBS, and the Pareto front."""

from collections.abc import Callable
from itertools import pairwise

import torch

from course_lib.teaching.exercises.engine import Exercise, Mistake


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- 08.1 ---------------------------------------------------------------------------------------


def cut_table(table: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The rows that are used, in their order, and ``ids`` renumbered to match."""
    used, places = ids.unique(return_inverse=True)
    return table[used], places


def _table_cases() -> list[tuple]:
    return [
        (_random(4, 2), torch.tensor([[0, 2], [2, 0]])),
        (_random(6, 3), torch.tensor([[5, 1, 3]])),
        (_random(5, 2), torch.tensor([[4, 4], [4, 4]])),
        (_random(3, 1), torch.tensor([[2, 1], [0, 2]])),
        (_random(30, 4), torch.tensor([[7, 29, 7], [8, 0, 0]])),
    ]


def _by_first_use(table: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    order = list(dict.fromkeys(ids.flatten().tolist()))
    places = [order.index(one) for one in ids.flatten().tolist()]
    return table[order], torch.tensor(places).view_as(ids)


def _zeroed_rows(table: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    kept = torch.zeros(len(table), 1)
    kept[ids.unique()] = 1
    return table * kept, ids


CUT_TABLE = Exercise(
    id="08.1",
    title="cut a table of embeddings",
    difficulty=2,
    minutes=8,
    reference=cut_table,
    cases=_table_cases,
    hints=(
        "`ids.unique()` gives the ids that occur, in ascending order.",
        "An id is the number of a row. In the smaller table that row has another number.",
        "`unique(return_inverse=True)` also returns the new number of each id.",
    ),
    mistakes=(
        Mistake(
            lambda table, ids: (table[ids.unique()], ids),
            "The rows have moved up, but the ids still give their old places: renumber them.",
        ),
        Mistake(
            _zeroed_rows,
            "Rows of zeros are still rows: the table is as large as before. Leave them out.",
        ),
        Mistake(
            lambda table, ids: (table[: len(ids.unique())], cut_table(table, ids)[1]),
            "The right number of rows, but not the right ones: those in use may be anywhere.",
        ),
        Mistake(
            lambda table, ids: (table[ids.flatten()], torch.arange(ids.numel()).view_as(ids)),
            "With a row for each token, a word is stored as often as it occurs. Keep one row per "
            "id.",
        ),
        Mistake(
            _by_first_use,
            "That would work, but keep the rows in the order of the old table: other parts of the "
            "network may rely on it, for example on `[PAD]` being first.",
        ),
        Mistake(
            lambda table, ids: (
                table[: int(ids.max()) + 1],
                ids,
            ),
            "Rows after the last used one are gone, but unused ones before it are still there.",
        ),
    ),
)


# --- 08.2 ---------------------------------------------------------------------------------------


def keep_heads(
    query: torch.Tensor, output: torch.Tensor, dim: int, keep: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Head h has the rows h * dim to (h + 1) * dim - 1; the output layer reads these columns."""
    places = [row for head in keep for row in range(head * dim, (head + 1) * dim)]
    return query[places], output[:, places]


def _heads_cases() -> list[tuple]:
    return [
        (_random(4, 3), _random(3, 4), 2, [1]),
        (_random(6, 4), _random(4, 6), 2, [0, 2]),
        (_random(6, 6), _random(6, 6), 3, [1]),
        (_random(8, 5), _random(5, 8), 2, [3, 1]),
        (_random(4, 4), _random(4, 4), 1, [0, 3]),
        (_random(3, 2), _random(2, 3), 3, [0]),
    ]


def _interleaved(query: torch.Tensor, output: torch.Tensor, dim: int, keep: list[int]):
    heads = len(query) // dim
    places = [head + step * heads for head in keep for step in range(dim)]
    return query[places], output[:, places]


def _silent_heads(query: torch.Tensor, output: torch.Tensor, dim: int, keep: list[int]):
    kept = torch.zeros(len(query) // dim)
    kept[keep] = 1
    kept = kept.repeat_interleave(dim)
    return query * kept[:, None], output * kept


def _other_heads(query: torch.Tensor, output: torch.Tensor, dim: int, keep: list[int]):
    gone = [head for head in range(len(query) // dim) if head not in keep]
    return keep_heads(query, output, dim, gone)


KEEP_HEADS = Exercise(
    id="08.2",
    title="remove heads",
    difficulty=2,
    minutes=10,
    reference=keep_heads,
    cases=_heads_cases,
    hints=(
        "Head h has `dim` adjacent rows of `query`, starting at h * dim.",
        "First list all rows that stay, head by head.",
        "A row of the layer that makes a channel is a column of the layer that reads it: "
        "`output[:, places]`.",
    ),
    mistakes=(
        Mistake(
            lambda query, output, dim, keep: (query[keep], output[:, keep]),
            "A head is `dim` rows, not one.",
        ),
        Mistake(
            _interleaved,
            "The rows of a head are adjacent: head 0 has the first `dim`, head 1 the next.",
        ),
        Mistake(
            lambda query, output, dim, keep: (keep_heads(query, output, dim, keep)[0], output),
            "The output layer still reads the removed heads. Remove its columns as well.",
        ),
        Mistake(
            _silent_heads,
            "That zeroes the heads: the values are right, but the tensors keep their size. Remove "
            "them.",
        ),
        Mistake(
            _other_heads,
            "Those are the heads to remove. `keep` lists those that stay.",
        ),
        Mistake(
            lambda query, output, dim, keep: (
                keep_heads(query, output, dim, sorted(keep))[0],
                keep_heads(query, output, dim, keep)[1],
            ),
            "Rows and columns must be in the same order, that of `keep`.",
        ),
    ),
)


# --- 08.3 ---------------------------------------------------------------------------------------


def ablation(loss: Callable[[list[bool]], float], heads: int) -> list[float]:
    """The rise of the loss with each head switched off alone."""
    whole = loss([True] * heads)
    return [loss([other != head for other in range(heads)]) - whole for head in range(heads)]


class _Additive:
    """A loss to which each missing head, and each missing pair of neighbours, adds its part."""

    def __init__(self, alone: list[float], pair: float = 0.0):
        self.alone, self.pair = alone, pair

    def __call__(self, on: list[bool]) -> float:
        if len(on) != len(self.alone):
            raise ValueError(f"There are {len(self.alone)} heads; got {len(on)} switches.")
        missing = sum(cost for cost, there in zip(self.alone, on, strict=True) if not there)
        pairs = sum(not one and not other for one, other in pairwise(on))
        return 0.5 + missing + self.pair * pairs

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Additive) and vars(self) == vars(other)

    def __repr__(self) -> str:
        return f"a loss of {len(self.alone)} heads"


def _ablation_cases() -> list[tuple]:
    return [
        (_Additive([0.25, 0.5]), 2),
        (_Additive([0.1, -0.2, 0.4], pair=1.0), 3),
        (_Additive([0.3]), 1),
        (_Additive([0.05, 0.0, 0.2, 0.1], pair=0.5), 4),
    ]


def _together(loss: Callable, heads: int) -> list[float]:
    whole = loss([True] * heads)
    return [loss([other > head for other in range(heads)]) - whole for head in range(heads)]


ABLATION = Exercise(
    id="08.3",
    title="what a head is worth",
    difficulty=2,
    minutes=7,
    reference=ablation,
    cases=_ablation_cases,
    hints=(
        "`loss([True, True, False])` is the loss with the third of three heads switched off.",
        "What is the loss with all heads on? Compare everything with that.",
        "For each head make a list of switches that is False at its place only.",
    ),
    mistakes=(
        Mistake(
            lambda loss, heads: [-change for change in ablation(loss, heads)],
            "The sign is reversed: switching off a head that is needed makes the loss *rise*.",
        ),
        Mistake(
            lambda loss, heads: [change + loss([True] * heads) for change in ablation(loss, heads)],
            "That is the loss without each head. Subtract the loss with all of them on.",
        ),
        Mistake(
            lambda loss, heads: [
                loss([other == head for other in range(heads)]) - loss([True] * heads)
                for head in range(heads)
            ],
            "That leaves one head on and switches all others off.",
        ),
        Mistake(
            _together,
            "Switch off each head *alone*: switch the one before on again.",
        ),
        Mistake(
            lambda loss, heads: [
                loss([other == head for other in range(heads)]) - loss([False] * heads)
                for head in range(heads)
            ],
            "Start from the whole network, not from one without any head.",
        ),
        Mistake(
            lambda loss, heads: [abs(change) for change in ablation(loss, heads)],
            "A head may do harm, so the change can be negative: keep the sign.",
        ),
    ),
)


# --- 08.4 ---------------------------------------------------------------------------------------


def without_weight(row: torch.Tensor, hessian: torch.Tensor, place: int) -> torch.Tensor:
    """OBS (Hassibi and Stork, 1993): zero the weight at ``place``; the others compensate."""
    inverse = hessian.inverse()
    updated = row - row[place] / inverse[place, place] * inverse[:, place]
    updated[place] = 0
    return updated


def _weight_cases() -> list[tuple]:
    cases = [
        (torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 1.0], [1.0, 2.0]]), 0),
        (torch.tensor([1.0, 2.0]), torch.tensor([[4.0, 0.0], [0.0, 1.0]]), 1),
        (torch.tensor([0.5, 0.0, 2.0]), torch.eye(3) + 1, 1),
    ]
    for width, place in ((3, 2), (5, 0)):
        inputs = _random(4 * width, width, seed=width).double()
        cases.append((_random(width, seed=1).double(), inputs.T @ inputs, place))
    return cases


def _zeroed(row: torch.Tensor, place: int) -> torch.Tensor:
    zeroed = row.clone()
    zeroed[place] = 0
    return zeroed


def _moved(row: torch.Tensor, direction: torch.Tensor, place: int) -> torch.Tensor:
    """The row moved along a direction, and exactly zero at the place."""
    return _zeroed(row + direction, place)


WITHOUT_WEIGHT = Exercise(
    id="08.4",
    title="make up for a lost weight",
    difficulty=4,
    minutes=15,
    reference=without_weight,
    cases=_weight_cases,
    hints=(
        "You want the change d of the row that minimizes d H d, with d at `place` equal to -w.",
        "By Lagrange's method, d is a multiple of the column `place` of the inverse of H.",
        "Choose the multiple so that the weight at `place` becomes 0: divide by the diagonal.",
    ),
    mistakes=(
        Mistake(
            lambda row, hessian, place: _zeroed(row, place),
            "That only removes the weight. The others can compensate for part of the error.",
        ),
        Mistake(
            lambda row, hessian, place: _moved(
                row, -row[place] / hessian[place, place] * hessian[:, place], place
            ),
            "Use the *inverse* of the Hessian: what matters is the curvature with the others free "
            "to move.",
        ),
        Mistake(
            lambda row, hessian, place: _moved(
                row,
                row[place] / hessian.inverse()[place, place] * hessian.inverse()[:, place],
                place,
            ),
            "The others move in the wrong direction. Try the formula at `place`: w - w must be 0.",
        ),
        Mistake(
            lambda row, hessian, place: _moved(
                row, -row[place] * hessian.inverse()[:, place], place
            ),
            "Divide by the inverse's diagonal at `place`, or the weight there does not become 0.",
        ),
        Mistake(
            lambda row, hessian, place: _moved(
                row,
                -row[place] / hessian[place, place] * hessian.inverse()[:, place],
                place,
            ),
            "The diagonal of the inverse is not that of H. Divide by the inverse's.",
        ),
        Mistake(
            lambda row, hessian, place: _moved(
                row,
                -(row[place] ** 2) / hessian.inverse()[place, place] * hessian.inverse()[:, place],
                place,
            ),
            "The square of the weight belongs to the *cost* of the removal, not to the update.",
        ),
    ),
)


# --- 08.5 ---------------------------------------------------------------------------------------


def front(points: dict[str, tuple[float, float]]) -> list[str]:
    """The networks for which no other is at least as good in both and better in one."""
    return [
        name
        for name, (cost, accuracy) in points.items()
        if not any(
            other_cost <= cost and better >= accuracy and (other_cost, better) != (cost, accuracy)
            for other_cost, better in points.values()
        )
    ]


def _front_cases() -> list[tuple]:
    return [
        ({"dense": (10.0, 90.0), "small": (5.0, 88.0), "worse": (6.0, 80.0)},),
        ({"a": (1.0, 50.0), "b": (1.0, 60.0), "c": (2.0, 60.0)},),
        ({"only": (3.0, 70.0)},),
        ({"a": (1.0, 80.0), "twin": (1.0, 80.0), "b": (2.0, 90.0)},),
        ({"d": (4.0, 91.0), "c": (3.0, 92.0), "b": (2.0, 85.0), "a": (1.0, 86.0)},),
    ]


def _dominates(strict: Callable[..., bool]) -> Callable:
    def found(points: dict[str, tuple[float, float]]) -> list[str]:
        return [
            name
            for name, mine in points.items()
            if not any(strict(*other, *mine) for other in points.values())
        ]

    return found


FRONT = Exercise(
    id="08.5",
    title="who is on the front",
    difficulty=3,
    minutes=10,
    reference=front,
    cases=_front_cases,
    hints=(
        "A network is off the front if another is at least as good in both, and better in one.",
        "Low cost is good, high accuracy is good.",
        "Two equal networks do not exclude each other.",
    ),
    mistakes=(
        Mistake(
            _dominates(lambda cost, right, mine, my_right: cost < mine and right > my_right),
            "Equal accuracy at a lower cost is better, too, and so is a higher accuracy at the "
            "same cost.",
        ),
        Mistake(
            _dominates(lambda cost, right, mine, my_right: cost <= mine and right >= my_right),
            "Every network is as good as itself, so you exclude all of them. One must be *better*.",
        ),
        Mistake(
            lambda points: [max(points, key=lambda name: points[name][1])],
            "That is only the most accurate one. A cheaper one may be less accurate.",
        ),
        Mistake(
            _dominates(
                lambda cost, right, mine, my_right: (
                    cost >= mine and right >= my_right and (cost, right) != (mine, my_right)
                )
            ),
            "A *low* cost is better.",
        ),
        Mistake(
            lambda points: [name for name in points if name not in front(points)],
            "Those are the networks that are not on the front.",
        ),
        Mistake(
            lambda points: sorted(front(points), key=lambda name: points[name]),
            "Return the names in the order in which they were given.",
        ),
    ),
)

EXERCISES = (CUT_TABLE, KEEP_HEADS, ABLATION, WITHOUT_WEIGHT, FRONT)

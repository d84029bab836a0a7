"""The exercises of lesson NN: TODO, what they are about."""

from course_lib.teaching.exercises.engine import Exercise, Mistake

# --- NN.1 ---------------------------------------------------------------------------------------

# TODO: replace this example.


def compression_ratio(dense_bytes: int, file_bytes: int) -> float:
    """Bytes of the dense network over those of the file."""
    return dense_bytes / file_bytes


def _ratio_cases() -> list[tuple]:
    return [(4000, 1000), (5000, 3000), (700, 700), (1000, 1250), (44_691_000, 752_000)]


COMPRESSION_RATIO = Exercise(
    id="NN.1",
    title="compression ratio",
    difficulty=1,
    minutes=2,
    reference=compression_ratio,
    cases=_ratio_cases,
    hints=(
        "A file of half the size is two times smaller: the ratio is 2.",
        "Divide `dense_bytes` by `file_bytes`.",
    ),
    mistakes=(
        Mistake(
            lambda dense_bytes, file_bytes: file_bytes / dense_bytes,
            "You return the share that is left. A ratio of 4 means a quarter: invert it.",
        ),
        Mistake(
            lambda dense_bytes, file_bytes: 1 - file_bytes / dense_bytes,
            "You return the share that is saved. Return how many times smaller the file is.",
        ),
        Mistake(
            lambda dense_bytes, file_bytes: dense_bytes - file_bytes,
            "You return the bytes that are saved. A ratio is a quotient.",
        ),
        Mistake(
            lambda dense_bytes, file_bytes: dense_bytes // file_bytes,
            "You drop the decimals: `//` divides whole numbers. Use `/`.",
        ),
        Mistake(
            lambda dense_bytes, file_bytes: max(1.0, dense_bytes / file_bytes),
            "A file can be larger than the network in memory. Then the ratio is below 1.",
        ),
    ),
)

EXERCISES = [COMPRESSION_RATIO]

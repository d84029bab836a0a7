"""What holds for all tests: the learner's progress is left alone, and no window opens."""

import os
import tempfile

import hypothesis
import matplotlib
import pytest

#: Fixtures that take seconds, with the file they are in: whatever uses one is slow.
SLOW_FIXTURES = {
    ("test_capstone", "attempt"),
    ("test_classroom", "course"),
    ("test_compression", "measured"),
    ("test_compression", "packed"),
    ("test_grading", "graded"),
    ("test_mixed", "measured"),
    ("test_mixed", "untrained"),
    ("test_transformer", "measured"),
}


def pytest_configure(config):
    """Before any test module is imported, since those import the course."""
    state = tempfile.TemporaryDirectory(prefix="course-state-")
    config.add_cleanup(state.cleanup)
    os.environ["PRUNING_COURSE_STATE"] = state.name
    os.environ["COURSE_QUIET"] = "1"
    # Not by the variable MPLBACKEND: a kernel that a test starts would inherit it, and its
    # lesson would show no figures.
    matplotlib.use("agg")
    # On a busy machine the time that an example takes says nothing about the code.
    hypothesis.settings.register_profile("course", deadline=None)
    hypothesis.settings.load_profile("course")


def pytest_collection_modifyitems(items):
    """Mark what uses a slow fixture, so that no test of it is forgotten."""
    for item in items:
        if {(item.path.stem, name) for name in getattr(item, "fixturenames", ())} & SLOW_FIXTURES:
            item.add_marker(pytest.mark.slow)

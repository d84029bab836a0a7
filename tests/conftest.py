"""Set-up of all tests: the learner's progress is left unchanged, and no window opens."""

import os
import tempfile

import hypothesis
import matplotlib
import pytest

#: Fixtures that take seconds, with their files: every test that uses one is slow.
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
    """Runs before any test module is imported, because those import the course."""
    state = tempfile.TemporaryDirectory(prefix="course-state-")
    config.add_cleanup(state.cleanup)
    os.environ["PRUNING_COURSE_STATE"] = state.name
    os.environ["COURSE_QUIET"] = "1"
    # Not with the variable MPLBACKEND: kernels started by a test would inherit it, and their
    # lessons would show no figures.
    matplotlib.use("agg")
    # On a busy machine, the time that an example takes says nothing about the code.
    hypothesis.settings.register_profile("course", deadline=None)
    hypothesis.settings.load_profile("course")


def pytest_collection_modifyitems(items):
    """Mark every test that uses a slow fixture as slow."""
    for item in items:
        if {(item.path.stem, name) for name in getattr(item, "fixturenames", ())} & SLOW_FIXTURES:
            item.add_marker(pytest.mark.slow)

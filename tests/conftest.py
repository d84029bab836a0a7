"""What holds for all tests: the learner's progress is left alone, and no window opens."""

import os
import tempfile

import hypothesis
import matplotlib


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

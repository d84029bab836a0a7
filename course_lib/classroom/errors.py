"""The error that a teacher sees when a command fails."""


class ClassroomError(RuntimeError):
    """A command failed; the message says what was wrong and what to do."""

"""What a teacher is told when a command cannot do its work."""


class ClassroomError(RuntimeError):
    """The message says what was wrong and what to do."""

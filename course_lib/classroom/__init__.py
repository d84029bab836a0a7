"""For teachers: the exercises as nbgrader assignments, and submissions graded in a sandbox."""

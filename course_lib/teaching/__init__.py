"""The course around the library: exercises, claims, progress, report, drill and lessons."""

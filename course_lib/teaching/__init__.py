"""What turns the library into a course: progress, claims, the report and the lessons themselves."""

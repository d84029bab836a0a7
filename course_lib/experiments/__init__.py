"""Hours of measuring, one file a recording. No recorder imports another."""

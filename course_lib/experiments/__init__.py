"""Long experiments, and the recordings that they write. No experiment imports another."""

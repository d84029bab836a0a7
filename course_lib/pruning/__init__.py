"""Which weights go, and how. Imports networks."""

"""Seconds, MACs, bytes, and accuracy with its interval. Imports networks."""

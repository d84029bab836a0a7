"""How a pruned network is stored and run. May prune and time, never records."""

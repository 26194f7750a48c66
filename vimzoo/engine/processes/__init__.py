"""Distributed runs: starting and joining processes, collectives, sharding, shared work."""

"""Comparing two machines operator by operator: a bug, or the floor of two correct machines."""

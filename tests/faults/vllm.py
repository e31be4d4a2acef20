"""Faults of vLLM's processes."""

"""Runs of other people's harnesses, read and compared."""

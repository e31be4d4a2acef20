"""Recordings of tensors that another tool dumped on two machines."""

from hetero_plugin.profile.imports.pair import imported

__all__ = ["imported"]

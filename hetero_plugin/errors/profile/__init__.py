"""Errors drawn from a distribution that was measured between two machines.

The file and its schema are `hetero_plugin.config.profile`, since a specification says which file it
means by the file's digest.
"""

from __future__ import annotations

from hetero_plugin.config.profile import (
    EDGES,
    Bin,
    Profile,
    Table,
    load_profile,
    nearest_k,
    shipped_profiles,
)
from hetero_plugin.errors.profile.bins import bins_of, from_ordered, ordered, row_rms

__all__ = [
    "EDGES",
    "Bin",
    "Profile",
    "Table",
    "bins_of",
    "from_ordered",
    "load_profile",
    "nearest_k",
    "ordered",
    "row_rms",
    "shipped_profiles",
]

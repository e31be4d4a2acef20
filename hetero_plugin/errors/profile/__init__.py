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
from hetero_plugin.errors.profile.held import hold, profile_of
from hetero_plugin.errors.profile.replay import Drawn, Replay, replay_of, replay_word

__all__ = [
    "EDGES",
    "Bin",
    "Drawn",
    "Profile",
    "Replay",
    "Table",
    "bins_of",
    "from_ordered",
    "hold",
    "load_profile",
    "nearest_k",
    "ordered",
    "profile_of",
    "replay_of",
    "replay_word",
    "row_rms",
    "shipped_profiles",
]

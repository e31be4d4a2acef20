"""Which operators there are in a model, by canonical name, and which of them a spec selects."""

from hetero_plugin.sites.families import FAMILIES, Entry, Family
from hetero_plugin.sites.select import (
    KINDS,
    Selected,
    Site,
    UnknownArchitectureError,
    aqn_sites,
    counts,
    family_of,
    fused_parts,
    match,
    select,
    sites_from_config,
)

__all__ = [
    "FAMILIES",
    "KINDS",
    "Entry",
    "Family",
    "Selected",
    "Site",
    "UnknownArchitectureError",
    "aqn_sites",
    "counts",
    "family_of",
    "fused_parts",
    "match",
    "select",
    "sites_from_config",
]

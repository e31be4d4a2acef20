"""Which operators there are in a model, by canonical name, and which of them a spec selects."""

from hetero_plugin.sites.families import FAMILIES, OTHERS
from hetero_plugin.sites.family import Entry, Family, Names
from hetero_plugin.sites.select import (
    KINDS,
    Selected,
    Site,
    UnknownArchitectureError,
    aqn_sites,
    counts,
    family_of,
    family_or_others,
    fused_parts,
    fused_with,
    match,
    select,
    sites_from_config,
)

__all__ = [
    "FAMILIES",
    "KINDS",
    "OTHERS",
    "Entry",
    "Family",
    "Names",
    "Selected",
    "Site",
    "UnknownArchitectureError",
    "aqn_sites",
    "counts",
    "family_of",
    "family_or_others",
    "fused_parts",
    "fused_with",
    "match",
    "select",
    "sites_from_config",
]

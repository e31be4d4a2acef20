"""Every family: the map and the loaded model agree; each kind of site is noisy, and can be off."""

from __future__ import annotations

import pytest
import torch

from hetero_plugin.hf.discover import discover
from hetero_plugin.sites import FAMILIES, sites_from_config
from tests.hf.families import FAMILY, family_config, make_family


def test_every_family_has_a_model_here() -> None:
    assert set(FAMILY) == set(FAMILIES)


@pytest.mark.parametrize("family", FAMILY)
@pytest.mark.parametrize("tied", [False, True])
def test_the_map_is_the_loaded_model(family: str, tied: bool) -> None:
    """Every operator of the model is in the map and the other way round, with the same sizes."""
    with torch.device("meta"):
        model = make_family(family, tie_word_embeddings=tied)
    mapped = sites_from_config(family_config(family, tie_word_embeddings=tied).to_dict())
    found = [one.site for one in discover(model)]
    assert len({site.name for site in found}) == len(found) == len(mapped)
    assert set(mapped) == set(found)
    # Nothing that multiplies was overlooked: every matrix of the layers belongs to a site.
    names = {site.name for site in mapped if site.in_features is not None}
    for name, parameter in model.named_parameters():
        if parameter.dim() >= 2 and "embed" not in name:
            assert name.removesuffix(".weight") in names, name

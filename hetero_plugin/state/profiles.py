"""Which table of a measured profile belongs to a site."""

from __future__ import annotations

import logging
from functools import cache

from hetero_plugin.config import ConfigError, NoiseRule
from hetero_plugin.errors.profile import hold, nearest_k, profile_of, replay_word
from hetero_plugin.sites import Site

__all__ = ["profile_word"]

log = logging.getLogger("hetero_noise")
_OF_INPUTS = ("linear", "lm_head", "router")


def profile_word(index: int, rule: NoiseRule, site: Site, seed: int) -> str:
    """What the operator draws from at a site; reads the profile if this process has not yet.

    Args:
        index: number of the rule, for errors.
        rule: of the error model ``profile``.
        site: that it selects.
        seed: of the specification.

    Returns:
        A `replay_word`.

    Raises:
        ConfigError: the file is not there or another than is meant, or nothing was measured for
            the site's kind or at its size.
    """
    assert rule.path is not None and rule.digest is not None
    profile = hold(rule.path, rule.digest)
    k = site.in_features if site.kind in _OF_INPUTS and site.in_features else site.features
    by_dtype = profile.of_kind(site.kind)
    if not by_dtype:
        raise ConfigError(
            f"rules[{index}]: {site.name} is of the kind {site.kind}, which the profile "
            f"{profile.name!r} ({rule.path}) has no table for; it has {profile.contents}. Leave "
            f"such sites out: exclude: [{site.kind}]"
        )
    if all(nearest_k(tuple(of), k) is None for of in by_dtype.values()):
        ks = sorted({one for of in by_dtype.values() for one in of})
        raise ConfigError(
            f"rules[{index}]: {site.name} ({site.kind}) has the size {k}, and the profile "
            f"{profile.name!r} ({rule.path}) was measured from {ks[0]} to {ks[-1]}; what lies "
            f"outside is not guessed. Measure it there too, or leave the site out"
        )
    _tell_of_another_size(rule.digest, site.kind, k)
    return replay_word(rule.digest, site.kind, k, seed)


@cache
def _tell_of_another_size(digest: str, kind: str, k: int) -> None:
    stand_ins: dict[int, list[str]] = {}
    for dtype, of in profile_of(digest).of_kind(kind).items():
        near = nearest_k(tuple(of), k)
        if near is not None and near != k:
            stand_ins.setdefault(near, []).append(dtype)
    for near, dtypes in stand_ins.items():
        log.warning(
            "hetero_noise: the profile %s was not measured for %s of size %d in %s; its table of "
            "size %d stands for it",
            digest[:16],
            kind,
            k,
            ", ".join(dtypes),
            near,
        )

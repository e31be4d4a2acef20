"""The profiles that this process has read, by digest, which operators name them by."""

from __future__ import annotations

from hetero_plugin.config.problems import ConfigError
from hetero_plugin.config.profile import Profile, load_profile, profile_path

__all__ = ["hold", "profile_of"]

_HELD: dict[str, Profile] = {}


def hold(path: str, digest: str) -> Profile:
    """The profile that a rule means, read once in a process.

    Args:
        path, digest: as in the rule.

    Raises:
        ConfigError: there is no such file here, it is no profile, or another one.
    """
    if digest not in _HELD:
        profile = load_profile(path)
        if profile.digest != digest:
            raise ConfigError(
                f"{profile_path(path)}: the profile has the digest {profile.digest}, and the "
                f"specification means {digest}: the file was changed, or this machine has another. "
                "Copy the one that is meant, or leave digest out to mean the file as it is"
            )
        _HELD[digest] = profile
    return _HELD[digest]


def profile_of(digest: str) -> Profile:
    """A profile that `hold` has read.

    Raises:
        ConfigError: it has not.
    """
    if digest not in _HELD:
        raise ConfigError(
            f"no profile with the digest {digest} was read in this process; a rule with its path "
            "reads it (`hetero_plugin.errors.profile.hold`)"
        )
    return _HELD[digest]

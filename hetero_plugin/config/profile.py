"""A measured profile: a file of tables of how one machine's results differ from another's.

A table holds, for one kind of operator and one dtype, the distribution of the difference in units
in the last place (ulps) of the dtype, apart for bins of the size of that unit relative to the root
mean square of the value's row. `hetero_plugin.errors.profile` draws from it,
`hetero_plugin.profile` fits it.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from hetero_plugin.config.base import Frozen
from hetero_plugin.config.problems import ConfigError, did_you_mean, shown

__all__ = [
    "EDGES",
    "LARGEST",
    "SHIPPED",
    "Bin",
    "Profile",
    "Table",
    "beside",
    "load_profile",
    "nearest_k",
    "profile_path",
    "settled_path",
    "shipped_profiles",
]

EDGES = tuple(-10.0 + 0.5 * i for i in range(29))
"""Where bins end unless a table says otherwise: log2 of the power of two at or below |y|, over the
RMS of the row."""
LARGEST = {"bfloat16": 0x7F7F, "float16": 0x7BFF, "float32": 0x7F7FFFFF}
"""Bits of each dtype's largest finite number: how many ulps it is away from 0."""
SHIPPED = Path(__file__).parents[1] / "errors" / "profile" / "data"
"""The folder of the profiles that come with the package."""

_SUFFIX = ".profile"
_MOST_BYTES = 64 << 20
_MOST_EDGES = 31
_MOST_ENTRIES = 256
_MOST_VALUES = (1 << 31) - 1
_CLOSEST = 0.2
"""Bits between two edges: the kernels find a bin by the leading three bits of a mantissa."""


class Bin(Frozen):
    """The differences of elements of one size.

    Raises:
        ConfigError: values that are not in order, or probabilities that do not rise to 1.
    """

    values: tuple[int | tuple[int, int], ...]
    """ulps, ascending; positive: away from zero. A pair (first, last): uniform among them"""
    cumulative: tuple[float, ...]
    """P(difference ≤ the end of values[i]), rising to 1"""
    n: int = Field(ge=0)
    """elements that were seen"""

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """`values` with every entry as a pair."""
        return tuple(v if isinstance(v, tuple) else (v, v) for v in self.values)

    @model_validator(mode="after")
    def _check(self) -> Bin:
        if not 1 <= len(self.values) <= _MOST_ENTRIES or len(self.values) != len(self.cumulative):
            raise ConfigError(
                f"got {len(self.values)} values and {len(self.cumulative)} probabilities; there "
                f"should be as many of one as of the other, from 1 to {_MOST_ENTRIES}."
            )
        last: int | None = None
        for first, end in self.ranges:
            if end < first or (last is not None and first <= last):
                raise ConfigError(
                    f"values: got {shown((first, end))} after {last}; they should ascend and not "
                    "overlap, and of a pair the first should not be the larger."
                )
            if end - first >= _MOST_VALUES:
                raise ConfigError(f"values: got {shown((first, end))}, of 2^31 values or more.")
            last = end
        before = 0.0
        for one in self.cumulative:
            if not before < one <= 1:  # NaN is neither
                raise ConfigError(
                    f"cumulative: got {one!r} after {before!r}; probabilities should rise, from "
                    "above 0 to 1."
                )
            before = one
        if before != 1:
            raise ConfigError(f"cumulative: ends at {before!r}; it should end at 1.")
        return self


class Table(Frozen):
    """What was measured of one kind of operator in one dtype.

    Raises:
        ConfigError: bins that do not fit the edges, edges out of order, values beyond the dtype.
    """

    kind: str = Field(min_length=1)
    """kind of site: linear, lm_head, norm, activation, attention …"""
    dtype: Literal["bfloat16", "float16", "float32"]
    """of the operator's output"""
    ks: tuple[int, ...]
    """sizes that went in, ascending: input columns of linear kinds, else columns of the output"""
    edges: tuple[float, ...] = EDGES
    """log2(2**floor(log2|y|) / RMS of the row), ascending, one fewer than bins; what lies on an
    edge is above. Below the dtype's smallest normal number, 0 included, it stands for |y|"""
    bins: tuple[Bin, ...]
    """below the first edge, between each two, and from the last on"""
    fresh: float = Field(default=0.0, ge=0, le=1)
    """share of elements whose difference is drawn anew at each step; 0: the machine repeats itself
    to the bit"""
    n: int = Field(ge=0)
    """elements that were seen"""

    @model_validator(mode="after")
    def _check(self) -> Table:
        if not self.ks or list(self.ks) != sorted(set(self.ks)) or self.ks[0] < 1:
            raise ConfigError(f"ks: got {shown(self.ks)}; it should ascend and begin above 0.")
        self._check_edges()
        most = LARGEST[self.dtype]
        for index, one in enumerate(self.bins):
            first, last = one.ranges[0][0], one.ranges[-1][1]
            if first < -most or last > most:
                raise ConfigError(
                    f"bins[{index}].values: got {first} to {last}; no number of {self.dtype} is "
                    f"more than {most} ulps from 0."
                )
        return self

    def _check_edges(self) -> None:
        edges = self.edges
        if len(edges) > _MOST_EDGES or len(self.bins) != len(edges) + 1:
            raise ConfigError(
                f"got {len(edges)} edges and {len(self.bins)} bins; there should be at most "
                f"{_MOST_EDGES} edges, and one bin more."
            )
        if not all(math.isfinite(edge) and abs(edge) <= 16 for edge in edges):
            raise ConfigError(f"edges: got {shown(edges)}; they should lie within ±16.")
        for low, high in pairwise(edges):
            if high - low < _CLOSEST:
                raise ConfigError(
                    f"edges: got {high:g} after {low:g}; they should ascend by {_CLOSEST} at least."
                )


class Profile(Frozen):
    """How one machine's results differ from another's, as a .profile file holds it.

    Raises:
        ConfigError: an unknown key, or a table that contradicts itself or another.
    """

    format: Literal["hetero-noise profile"] = "hetero-noise profile"
    """what the file is"""
    version: Literal[2] = 2
    """of the format"""
    name: str = Field(min_length=1)
    """for people"""
    made_from: dict[str, Any] = Field(default_factory=dict)
    """the two recordings: machine, variant, engine, model, text, hash; not part of the digest"""
    tables: tuple[Table, ...]
    """one for each kind, dtype and group of sizes"""
    report: dict[str, Any] = Field(default_factory=dict)
    """how well it fits; not part of the digest"""

    @model_validator(mode="after")
    def _check(self) -> Profile:
        if not self.tables:
            raise ConfigError("tables: got none; a profile has at least one.")
        seen: set[tuple[str, str, int]] = set()
        for index, table in enumerate(self.tables):
            for k in table.ks:
                key = (table.kind, table.dtype, k)
                if key in seen:
                    raise ConfigError(
                        f"tables[{index}]: {table.kind} in {table.dtype} at {k} is in another "
                        "table already; one of the two would be lost."
                    )
                seen.add(key)
        return self

    @property
    def digest(self) -> str:
        """SHA-256, 64 hexadecimal digits, of the version and the tables: what is drawn from."""
        data = [self.version, [table.model_dump(mode="json") for table in self.tables]]
        text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def of_kind(self, kind: str) -> dict[str, dict[int, Table]]:
        """dtype -> size -> table, for the sites of a kind; empty where it was not measured."""
        found: dict[str, dict[int, Table]] = {}
        for table in self.tables:
            if table.kind == kind:
                found.setdefault(table.dtype, {}).update(dict.fromkeys(table.ks, table))
        return found

    @property
    def contents(self) -> str:
        """For errors: `linear in bfloat16 (K 896, 4864), norm in bfloat16 (K 896)`."""
        sizes: dict[tuple[str, str], list[int]] = {}
        for table in self.tables:
            sizes.setdefault((table.kind, table.dtype), []).extend(table.ks)
        return ", ".join(
            f"{kind} in {dtype} (K {', '.join(map(str, sorted(ks)))})"
            for (kind, dtype), ks in sorted(sizes.items())
        )

    def write(self, path: str | Path, *, dense: bool = False) -> None:
        """Writes the file, whole or not at all.

        Args:
            path: of the file.
            dense: in one line without spaces, half the size.

        Raises:
            ConfigError: the name does not end in .profile, or the file can't be written.
        """
        path = Path(path)
        _check_suffix(path)
        text = json.dumps(
            self.model_dump(mode="json"),
            indent=None if dense else 1,
            separators=(",", ":") if dense else None,
            sort_keys=True,
            allow_nan=False,
        )
        try:
            with tempfile.NamedTemporaryFile(
                "w", dir=path.parent, prefix=path.name, delete=False, encoding="utf-8"
            ) as file:
                file.write(text + "\n")
            os.chmod(file.name, 0o644)
            os.replace(file.name, path)
        except OSError as error:
            raise ConfigError(f"{path}: can't be written: {error.strerror or error}.") from None


def shipped_profiles() -> tuple[str, ...]:
    """Names of the profiles that come with the package."""
    return tuple(sorted(path.name.removesuffix(_SUFFIX) for path in SHIPPED.glob(f"*{_SUFFIX}")))


def profile_path(path: str | Path) -> Path:
    """Where a profile lies: a file's path, or the name of one that comes with the package."""
    word = str(path)
    if word in shipped_profiles():
        return SHIPPED / f"{word}{_SUFFIX}"
    return Path(path).expanduser()


def settled_path(path: str) -> str:
    """A path that means the same in every folder; the name of a shipped profile as it is."""
    return path if path in shipped_profiles() else os.path.abspath(os.path.expanduser(path))


def beside(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A specification's mapping whose rules' ``path`` are relative to the file that it is.

    Args:
        data: as read from a file that the user named.
        folder: where that file lies.
    """

    def moved(rule: Any) -> Any:
        path = rule.get("path") if isinstance(rule, Mapping) else None
        if not isinstance(path, str) or path in shipped_profiles():
            return rule
        return {**rule, "path": str(folder / Path(path).expanduser())}

    data = moved(data)
    rules = data.get("rules")
    return {**data, "rules": [moved(rule) for rule in rules]} if isinstance(rules, list) else data


def load_profile(path: str | Path) -> Profile:
    """Reads a profile.

    Args:
        path: of a .profile file, or the name of one that comes with the package.

    Raises:
        ConfigError: there is none, it is no plain file of at most 64 MB, or no valid profile; the
            text names the file.
    """
    place = profile_path(path)
    _check_suffix(place)
    try:
        found = os.stat(place)
        if not stat.S_ISREG(found.st_mode) or found.st_size > _MOST_BYTES:
            raise ConfigError(
                f"{place}: is no plain file of at most {_MOST_BYTES >> 20} MB, as a profile is."
            )
        text = place.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(
            f"{place}: can't be read: {why}. Give the path of a {_SUFFIX} file, or one of those "
            f"that come with the package: {', '.join(shipped_profiles()) or 'none'}."
            f"{did_you_mean(str(path), shipped_profiles())}"
        ) from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise ConfigError(f"{place}: is not JSON, as a profile is.") from None
    if not isinstance(data, dict) or data.get("format") != "hetero-noise profile":
        raise ConfigError(
            f"{place}: has no format 'hetero-noise profile', and is no profile; `hetero-noise "
            "profile fit` makes one of two recordings."
        )
    if (version := data.get("version")) != 2:
        old = (
            " Version 1 had bins by |y|, not by its unit in the last place: fit it again from its "
            "recordings (`hetero-noise profile fit A.rec B.rec --out AB.profile`)."
        )
        raise ConfigError(
            f"{place}: version: got {shown(version)}; this package reads version 2."
            f"{old if version == 1 else ''}"
        )
    try:
        return Profile(**data)
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}", error.problems) from None


def _check_suffix(path: Path) -> None:
    if path.suffix != _SUFFIX:
        raise ConfigError(
            f"{path}: a profile is a file whose name ends in {_SUFFIX}, or one that comes with the "
            f"package: {', '.join(shipped_profiles()) or 'none'}."
            f"{did_you_mean(str(path), shipped_profiles())}"
        )


def nearest_k(ks: Sequence[int], k: int) -> int | None:
    """The measured size that stands for ``k``: nearest in log2; of two, the smaller.

    Args:
        ks: measured sizes.

    Returns:
        One of them; None where k lies outside of all of them, which nothing was measured for.
    """
    if not ks or not min(ks) <= k <= max(ks):
        return None
    below, above = max(one for one in ks if one <= k), min(one for one in ks if one >= k)
    return below if k * k <= below * above else above

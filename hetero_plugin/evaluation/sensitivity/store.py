"""What is measured for a sensitivity map, kept pass by pass so that a map goes on where it stopped.

``measured.json`` holds ``header`` (what was asked, which must agree), ``sessions`` (an attestation
each), ``sites``, ``tokens``, ``floor`` and ``conditions``: of each setting ``kl`` and ``loss``,
summed over the tokens of each window, [draws][windows].
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hetero_plugin.evaluation import files, records

FORMAT = 1
NAME = "measured.json"
KEPT = ("kl", "loss")


class Store:
    """The file of one map.

    Args:
        folder: of the map; made if need be.
        header: what is asked.

    Raises:
        ResultError: the folder holds another map, named by what differs; or a file that can't be
            read. Nothing is overwritten.
        FileError: the folder can't be written.
    """

    def __init__(self, folder: Path, header: Mapping[str, Any]) -> None:
        self.path = folder / NAME
        files.check_target(self.path)
        self.data: dict[str, Any] = {
            "format": FORMAT,
            "header": dict(header),
            "sessions": [],
            "conditions": {},
        }
        if self.path.exists():
            self.data = self._same(header)

    def _same(self, header: Mapping[str, Any]) -> dict[str, Any]:
        data, _ = records.read(self.path)
        old = data.get("header") if isinstance(data, dict) else None
        if (
            not isinstance(old, dict)
            or data.get("format") != FORMAT
            or not isinstance(data.get("conditions"), dict)
            or not isinstance(data.get("sessions"), list)
        ):
            raise records.ResultError(
                f"{self.path}: is no unfinished sensitivity map of format {FORMAT}; give another "
                "--out, or remove that file"
            )
        different = sorted(k for k in {*old, *header} if old.get(k) != header.get(k))
        # Where the two lie is not what they are.
        different = [key for key in different if key not in ("model", "text")]
        if different:
            what = "; ".join(
                f"{k}: {old.get(k)!r:.80} there, {header.get(k)!r:.80} now" for k in different[:4]
            )
            raise records.ResultError(
                f"{self.path} holds another map ({what}); give another --out, or remove that file"
            )
        return data

    def begin(
        self,
        session: Mapping[str, Any],
        sites: list[dict[str, Any]],
        tokens: np.ndarray,
        floor: Mapping[str, np.ndarray],
    ) -> None:
        """Adds a session; sites, windows and floor must be those of the sessions before."""
        fresh = {"sites": sites, "tokens": tokens.tolist()}
        for key, value in fresh.items():
            if self.data.setdefault(key, value) != value:
                raise records.ResultError(
                    f"{self.path}: {key} of this session are not those in the file, although the "
                    "header agrees; remove the file"
                )
        self.data.setdefault("floor", {name: [floor[name].tolist()] for name in KEPT})
        self.data["sessions"].append(dict(session))
        self.save()

    def has(self, condition: str) -> bool:
        """Whether a condition is finished."""
        return condition in self.data["conditions"]

    def add(self, condition: str, sums: Mapping[str, np.ndarray]) -> None:
        """Keeps a finished condition: sums [D, W] of each of ``KEPT``."""
        self.data["conditions"][condition] = {name: sums[name].tolist() for name in KEPT}
        self.save()

    def get(self, condition: str) -> dict[str, np.ndarray]:
        """The sums [D, W] of a finished condition.

        Raises:
            ResultError: the file holds something else for it.
        """
        return self._arrays(condition, self.data["conditions"][condition])

    @property
    def floor(self) -> dict[str, np.ndarray]:
        """The sums [1, W] of clean against clean."""
        return self._arrays("floor", self.data["floor"])

    def _arrays(self, name: str, row: Any) -> dict[str, np.ndarray]:
        try:
            found = {key: np.array(row[key], dtype=float) for key in KEPT}
            good = all(
                one.ndim == 2 and one.shape[1] == len(self.data["tokens"]) and len(one)
                and np.isfinite(one).all()
                for one in found.values()
            )  # fmt: skip
        except (TypeError, KeyError, ValueError):
            good = False
        if not good:
            raise records.ResultError(
                f"{self.path}: {name} should hold kl and loss, numbers by draw and window; remove "
                "the file and run again"
            )
        return found

    def save(self) -> None:
        """Writes the file, whole or not at all.

        Raises:
            ResultError: it can't be written.
        """
        try:
            files.write_json(self.path, self.data)
        except OSError as error:
            raise records.ResultError(
                f"{self.path}: can't be written: {files.reason(error)}"
            ) from None

"""From the sums of a map's passes to its ranking, its factors by layer and a list to keep clean."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation.fidelity.resample import Resamples, bounded
from hetero_plugin.evaluation.sensitivity.store import Store

FORMAT = 1
FACTORS = (0.5, 2.0)  # the least and the largest that a map suggests for a layer
Sums = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Budget:
    """How many sites may be kept clean, or what share of the KL that has to recover."""

    sites: int | None = None
    share: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """A budget of ``12`` sites, or of ``60%`` of the KL.

        Raises:
            ConfigError: it is neither.
        """
        found = re.fullmatch(r"\s*(\d{1,9})\s*|\s*(\d{1,2}(?:\.\d+)?)\s*%\s*", text)
        if found and found[1] and int(found[1]) > 0:
            return cls(sites=int(found[1]))
        if found and found[2] and float(found[2]) > 0:
            return cls(share=float(found[2]) / 100)
        raise ConfigError(
            f"--budget {text!r}: it should be a number of sites over 0, such as 12, or a share of "
            "the KL between 0 and 100 %, such as 60%"
        )


class Map:
    """The findings of finished passes.

    Args:
        store: with every condition of ``plan``.
        plan: names of the conditions.
    """

    def __init__(self, store: Store, plan: list[str]) -> None:
        self.store, self.plan = store, plan
        self.sums = {name: store.get(name) for name in plan}
        self.whole = self.sums["all"]["kl"]
        self.resamples = Resamples(np.array(store.data["tokens"]), len(self.whole))
        self.floor = self.resamples_of_one.interval(store.floor["kl"])
        self.rows = self._ranking()

    @property
    def resamples_of_one(self) -> Resamples:
        """The same windows, of what has a single draw."""
        return Resamples(np.array(self.store.data["tokens"]), 1)

    def _effect(self, sums: Sums) -> dict[str, Any]:
        return {name: self.resamples.interval(sums[name]) for name in ("kl", "loss")}

    def _ranking(self) -> list[dict[str, Any]]:
        sites = self.store.data["sites"]
        sums = [self.sums[f"site:{site['name']}"] for site in sites]
        resampled = np.stack([self.resamples.values(one["kl"]) for one in sums])  # [S, resamples]
        # Rank 1 is the largest; of equal ones, which are at 0, the earlier site.
        ranks = (-resampled).argsort(0, kind="stable").argsort(0, kind="stable") + 1
        low, high = np.quantile(ranks, [0.025, 0.975], axis=1, method="nearest")
        rows = []
        for i, site in enumerate(sites):
            row = {**site, **self._effect(sums[i])}
            row["rank_low"], row["rank_high"] = int(low[i]), int(high[i])
            row["within_floor"] = row["kl"]["value"] <= self.floor["high"]
            without = self.sums.get(f"but:{site['name']}")
            row["recovers_alone"] = None if without is None else self._recovered(without["kl"])
            rows.append(row)
        rows.sort(key=lambda row: -row["kl"]["value"])
        total = sum(row["kl"]["value"] for row in rows)
        for rank, row in enumerate(rows, start=1):
            row["rank"] = rank
            row["share"] = row["kl"]["value"] / total if total else 0.0
        return rows

    def _recovered(self, kept: np.ndarray, whole: np.ndarray | None = None) -> dict[str, Any]:
        """The share of all sites' KL that is gone with some of them clean."""
        whole = self.whole if whole is None else whole
        resamples = self.resamples if len(whole) == len(self.whole) else self.resamples_of_one
        all_of_it = resamples.value(whole)
        if not all_of_it > 0:
            return {"value": 0.0, "low": 0.0, "high": 0.0}
        gone = 1 - resamples.values(kept) / np.maximum(resamples.values(whole), 1e-300)
        return bounded(1 - resamples.value(kept) / all_of_it, gone)

    def document(
        self,
        budget: Budget,
        keeping_clean: Callable[[list[str], bool], Sums],
        progress: Callable[[str, int, int], None] | None = None,
    ) -> dict[str, Any]:
        """What ``sensitivity.json`` holds.

        Args:
            budget: of the list to keep clean.
            keeping_clean: measures all sites on but these; True: in a draw not seen so far.
            progress: called with what is being done, and how far.
        """
        groups = {
            kind: {
                name.removeprefix(f"{kind}:"): self._effect(self.sums[name])
                for name in self.plan
                if name.startswith(f"{kind}:")
            }
            for kind in ("kind", "layer")
        }
        document = {
            "format": FORMAT,
            **self.store.data["header"],
            "windows": len(self.store.data["tokens"]),
            "predicted_tokens": int(sum(self.store.data["tokens"])),
            "floor": {"kl": self.floor},
            "all": self._effect(self.sums["all"]),
            "by_kind": groups["kind"],
            "by_layer": groups["layer"],
            "sites": self.rows,
            "suggestion": self._suggestion(budget, keeping_clean, progress),
            "sessions": self.store.data["sessions"],
        }
        found = factors({int(k): v["kl"]["value"] for k, v in groups["layer"].items()})
        if found:
            # What `aqn.multipliers` reads of this file.
            document["multipliers"] = {str(layer): factor for layer, factor in found.items()}
        return document

    def _suggestion(
        self,
        budget: Budget,
        keeping_clean: Callable[[list[str], bool], Sums],
        progress: Callable[[str, int, int], None] | None,
    ) -> dict[str, Any] | None:
        names = [row["name"] for row in self.rows]
        if not self.resamples.value(self.whole) > self.floor["high"]:
            return None  # nothing is there that could be recovered

        def recovered(count: int) -> float:
            kept = keeping_clean(names[:count], False)["kl"]
            return float(self._recovered(np.broadcast_to(kept, self.whole.shape))["value"])

        def tell(done: int) -> None:
            if progress is not None:
                progress("checking the list to keep clean", done, steps)

        if budget.sites is not None:
            steps, count = 2, min(budget.sites, len(names))
        else:
            assert budget.share is not None
            # The first prefix of the ranking that does it, if each site kept clean helps.
            low, count = 0, len(names)
            steps = math.ceil(math.log2(len(names) + 1)) + 2
            done = 0
            while count - low > 1:
                middle = (low + count) // 2
                tell(done)
                done += 1
                if recovered(middle) >= budget.share:
                    count = middle
                else:
                    low = middle
        clean = names[:count]
        tell(steps - 1)
        kept = np.broadcast_to(keeping_clean(clean, False)["kl"], self.whole.shape)
        measured = self._recovered(kept)
        fresh_all, fresh = keeping_clean([], True)["kl"], keeping_clean(clean, True)["kl"]
        checked = self._recovered(fresh, fresh_all)
        tell(steps)
        return {
            "budget": {"sites": budget.sites, "share": budget.share},
            "keep_clean": clean,
            "of": len(names),
            "expected_if_additive": sum(row["share"] for row in self.rows[:count]),
            "recovered": measured,
            "checked_in_a_fresh_draw": checked,
            "sentence": (
                f"keeping {len(clean)} of {len(names)} sites clean recovers "
                f"{100 * checked['value']:.0f} % of the KL "
                f"({100 * checked['low']:.0f} to {100 * checked['high']:.0f} %), measured in a "
                "draw of the error that the ranking had not seen"
            ),
        }


def factors(kl: Mapping[int, float]) -> dict[int, float]:
    """Factors on AQN's σ: more where the error does more.

    KL grows about as the square of an error's size, so a layer's factor is the root of its KL over
    the geometric mean of all layers', kept within 0.5 and 2.

    Args:
        kl: of each layer with its own sites on alone.
    """
    positive = [value for value in kl.values() if value > 0]
    if not positive:
        return {}
    mean = math.exp(sum(map(math.log, positive)) / len(positive))
    least, most = FACTORS
    return {
        layer: round(min(max(math.sqrt(value / mean), least), most), 4)
        for layer, value in sorted(kl.items())
    }

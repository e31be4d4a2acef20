"""A small engine of matrices with genuine noise, and simulated runs, for tests of evaluation.

The network computes; its faults are real faults of its own. Whether vLLM and Hugging Face are
attested is tested on vLLM and Hugging Face, not here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hetero_plugin import attestation
from hetero_plugin.attestation import ProbedSite
from hetero_plugin.evaluation import results, stats

FINGERPRINT = "0123456789abcdef"
NAMES = tuple(f"layer.{i}" for i in range(4))


class MatrixProbe:
    """Four matrices; each site multiplies its output by 1 + scale * z with fixed z."""

    engine = "matrices"

    def __init__(self, *, dead: Sequence[str] = (), fault: str = "") -> None:
        rng = np.random.default_rng(0)
        self.weights = [rng.normal(size=(8, 8)) / 3 for _ in NAMES]
        self.z = [rng.normal(size=8) for _ in NAMES]
        self.x = rng.normal(size=(5, 8))
        self.dead = set(dead)
        self.fault = fault
        self.scales = dict.fromkeys(NAMES, 0.05)
        self.calls = 0

    def expected(self) -> list[ProbedSite]:
        return [ProbedSite(name, "linear", 0.05) for name in NAMES]

    def describe(self) -> dict[str, Any]:
        other = "f" * 16 if self.fault == "other process" else FINGERPRINT
        return {
            "fingerprint": FINGERPRINT,
            "processes": [
                {"pid": 1, "rank": 0, "fingerprint": FINGERPRINT},
                {"pid": 2, "rank": 1, "fingerprint": other},
            ],
            "sites": NAMES[:3] if self.fault == "lost site" else NAMES,
        }

    def off(self) -> None:
        if self.fault != "stuck on":
            self.scales = dict.fromkeys(NAMES, 0.0)

    def only(self, sites: Sequence[str], scale: float) -> None:
        self.off()
        self.scales.update(dict.fromkeys(sites, scale))

    def configured(self) -> None:
        self.scales = dict.fromkeys(NAMES, 0.05)

    def _forward(self, scales: dict[str, float]) -> np.ndarray:
        self.calls += 1
        h = self.x
        for name, w, z in zip(NAMES, self.weights, self.z, strict=True):
            h = np.tanh(h @ w)
            if name not in self.dead:
                h = h * (1 + scales[name] * z)
        if self.fault == "unrepeatable":
            h = h + 1e-12 * self.calls
        if self.fault == "not finite" and any(scales.values()):
            h = h * np.nan
        logits = h - h.max(axis=1, keepdims=True)
        return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).ravel()

    def clean(self) -> np.ndarray:
        return self._forward(dict.fromkeys(NAMES, 0.0))

    def output(self) -> np.ndarray:
        return self._forward(self.scales)


def simulate_result(
    *, seed: int, accuracies: dict[float, float], n: int = 1024, dead: Sequence[str] = ()
) -> dict[str, Any]:
    """An evaluation's results: outcomes drawn at given accuracies, paired through difficulty."""
    rng = np.random.default_rng(1)  # the same questions for every arm
    difficulty = rng.random(n)
    jitter = np.random.default_rng(seed)
    document = results.new(
        {
            "n": n,
            "total": n,
            "task": "data/test.parquet",
            "task_sha256": "ab" * 32,
            "data_source": "hetero_noise/addition",
            "fingerprint": FINGERPRINT,
            "margin": 0.02,
            "model": "merged",
            "model_sha256": "cd" * 32,
            "spec": {"preset": "qerl-fp4"},
        }
    )
    record = attestation.attest(MatrixProbe(dead=dead))
    document["sessions"].append({"attestation": record, "versions": attestation.versions()})
    for level, accuracy in accuracies.items():
        right = difficulty + jitter.normal(scale=0.05, size=n) < accuracy
        outcomes = [int(value) for value in right]
        document["levels"].append(
            {
                "level": level,
                "session": 0,
                "accuracy": stats.accuracy(outcomes).to_dict(),
                "outcomes": outcomes,
                "texts": [str(value) for value in outcomes],
                "truncated_share": 0.0,
                "mean_tokens": 4.0,
                "seconds": 3.0,
                "scales": {"min": level, "max": level},
            }
        )
    document["realised"] = {
        "note": "Measured on 32 prompts in float32.",
        "by_kind": [
            {
                "kind": "linear",
                "sites": 4,
                "asked": 0.05,
                "rms_relative": 0.0501,
                "bias": 1e-5,
                "changed": 0.999,
                "sqnr_db": 26.0,
            }
        ],
    }
    return document


def simulate_run(folder: Path, *, dead: Sequence[str] = (), steps: int = 40) -> Path:
    """A run folder with three arms in the layout that the report reads."""
    arms = {
        "clean": {0.0: 0.62, 0.05: 0.55, 0.1: 0.38},
        "noise": {0.0: 0.63, 0.05: 0.60, 0.1: 0.47},
        "noise_aqn": {0.0: 0.64, 0.05: 0.635, 0.1: 0.52},
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps({"title": "Simulated run", "seed": 7}))
    rng = np.random.default_rng(2)
    for index, (name, accuracies) in enumerate(arms.items()):
        document = simulate_result(
            seed=index + 10, accuracies=accuracies, dead=dead if name == "noise" else ()
        )
        results.write_json(folder / "eval" / f"{name}.json", document)
        lines = []
        for step in range(1, steps + 1):
            data = {
                "critic/score/mean": 0.45 + 0.004 * step * (1 + 0.1 * index) + rng.normal() * 0.03,
                "rollout_corr/kl": abs(rng.normal()) * 1e-3 * (1 + 4 * index),
                "training/rollout_actor_probs_pearson_corr": 1 - 1e-3 * index,
            }
            if name == "noise_aqn":
                stage = (step - 1) * 6 // steps
                data["hetero/sigma"] = 0.0 if stage == 0 else 0.05 * 0.5**stage
            if step % 10 == 0:
                data["val-core/hetero_noise/addition/acc/mean@1"] = 0.5 + 0.004 * step
            lines.append(json.dumps({"step": step, "data": data}))
        metrics = folder / "arms" / name / "metrics.jsonl"
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text("\n".join(lines) + "\n")
        train = {"seed": 7, "steps": steps, "fingerprint": FINGERPRINT if index else None}
        (metrics.parent / "train.json").write_text(json.dumps(train))
    return folder

"""What a noisy server shows at ``/metrics``: the noise in force, as Prometheus metrics.

The numbers are those of the last worker call, and of the spec before there was one. Servers of
several API processes (``--api-server-count``) collect metrics over files, where these are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from hetero_plugin import __version__
from hetero_plugin.config import NoiseConfig
from hetero_plugin.sites import Site, counts, select
from hetero_plugin.vllm.client.calls import READ_ONLY


class NoiseCollector(Collector):
    """Metrics of the one engine that this process serves."""

    def __init__(self, status: dict[str, Any]) -> None:
        self.status = status
        self.changes = 0

    def collect(self) -> Iterator[Metric]:
        """One family a setting; scales by kind (the largest where a kind has several)."""
        status = self.status
        info = InfoMetricFamily("hetero_noise_spec", "The specification of this noisy engine.")
        info.add_metric([], {"fingerprint": status["fingerprint"], "version": __version__})
        yield info
        sites = GaugeMetricFamily("hetero_noise_sites", "Sites selected.", labels=["kind"])
        for kind, number in status["sites"].items():
            sites.add_metric([kind], number)
        yield sites
        scale = GaugeMetricFamily("hetero_noise_scale", "Largest scale in force.", labels=["kind"])
        for kind, values in status["scales"].items():
            scale.add_metric([kind], max((v for v in values if v is not None), default=0.0))
        yield scale
        for name, text, value in (
            ("enabled", "1 while noise is on.", status["enabled"]),
            ("step", "Noise step.", status["step"]),
            (
                "aqn_sigma",
                "Sigma of AQN in force.",
                (status["sigma"] or 0.0) if status.get("aqn_enabled", True) else 0.0,
            ),
        ):
            yield GaugeMetricFamily(f"hetero_noise_{name}", text, value=float(value))
        yield CounterMetricFamily(
            "hetero_noise_changes", "Worker calls that changed something.", value=self.changes
        )


_collector: NoiseCollector | None = None


def register(config: NoiseConfig, sites: Sequence[Site]) -> None:
    """Adds the metrics of an engine under ``config``, in place of those of an engine before it."""
    global _collector
    selected = select(config, sites)
    scales: dict[str, list[float]] = {}
    for chosen in selected:
        scales.setdefault(chosen.site.kind, []).extend(rule.scale for _, rule in chosen.rules)
    status = {
        "fingerprint": config.fingerprint,
        "sites": counts(selected),
        "scales": {kind: sorted(set(values)) for kind, values in scales.items()},
        "enabled": True,
        "step": 0,
        "sigma": None,
    }
    if _collector is None:
        _collector = NoiseCollector(status)
        REGISTRY.register(_collector)
    else:
        _collector.status, _collector.changes = status, 0


def update(method: str, answers: Any) -> None:
    """Takes over what a worker call answered."""
    if _collector is None or not answers or not isinstance(answers[0], dict):
        return
    if answers[0].get("noisy"):
        _collector.status = answers[0]
        _collector.changes += method not in READ_ONLY


def forget_changes() -> None:
    """Starts the count of changes at 0: those that an attestation made have been undone."""
    if _collector is not None:
        _collector.changes = 0

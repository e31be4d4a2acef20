"""vLLM with hardware error: ``quantization="hetero_noise"``.

`register` is the entry point of the group ``vllm.general_plugins``; vLLM calls it in every process
that it starts. Everything else is imported when an engine turns out to be noisy.
"""

from __future__ import annotations

__all__ = ["register"]


def register() -> None:
    """Makes vLLM know the quantization method, the arguments and the worker calls.

    May be called any number of times in a process.

    Raises:
        PatchError: this vLLM has changed something that the plugin relies on.
    """
    from hetero_plugin.vllm import patches, quantization

    quantization.register_method()
    patches.apply()

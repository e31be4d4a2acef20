"""Faults of vLLM's configuration. Run by ``tests/engines/test_faults_vllm.py``.

``bench.py`` is the process in which vLLM is imported and its configuration made.
"""

from __future__ import annotations

from tests.faults.registry import fault, noticed

# ---- before an engine starts: configuration alone


@fault(
    "all noise",
    "vLLM's configuration is made where the plugin is not installed",
    "vLLM knows no such quantization, and starts nothing",
    by="error",
    engine="vllm",
)
def plugin_not_installed() -> str:
    return _before("not_installed", "hetero_noise")


@fault(
    "all noise",
    "`VLLM_PLUGINS` names another plugin only",
    "vLLM knows no such quantization, and starts nothing",
    by="error",
    engine="vllm",
)
def vllm_plugins_excludes_it() -> str:
    return _before("excluded", "hetero_noise")


@fault(
    "all noise",
    "a specification in `additional_config`, and no `quantization`",
    "ConfigError: the engine would run clean",
    by="error",
    engine="vllm",
)
def quantization_forgotten() -> str:
    return _before("forgotten", "would run clean")


@fault(
    "one of two specifications' graphs",
    "two specifications for one model and one compile cache",
    "vLLM's compile hashes differ, also by the plugin's version",
    by="values",
    engine="vllm",
)
def stale_compile_cache() -> str:
    return _before("cache", "4 different hashes")


@fault(
    "agreement of processes",
    "a worker with another version of the plugin than the engine's process",
    "ConfigError with both versions",
    by="error",
    engine="vllm",
)
def another_plugin_version() -> str:
    return _before("version", "0.0.9", "install one version everywhere")


_answers: dict[str, str] = {}


def _before(case: str, *words: str) -> str:
    """What the configuration process said; it runs once, since importing vLLM takes most of it."""
    from tests.faults.bench import configure

    if not _answers:
        _answers.update(configure())
    found = _answers[case]
    return noticed(all(word in found for word in words), found)

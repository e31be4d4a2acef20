"""A server that attests itself before it answers anything: ``--hetero-noise-attest``.

The attestation runs inside ``AsyncLLM.get_supported_tasks``. A server awaits it before it builds
its application, and every request awaits it again before it reaches the engine: so the server does
not start without a passing attestation, and were it to start in another way, it would answer none.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hetero_plugin.config import ConfigError, NoiseConfig

if TYPE_CHECKING:
    from vllm.config import VllmConfig
    from vllm.engine.protocol import EngineClient

KEY = "hetero_noise_attest"
"""Key of ``additional_config``: true makes the server attest itself."""
ARGUMENT = "--hetero-noise-attest"
_SHOWN = ("passed", "seen", "of", "by_kind", "failures", "fingerprint", "time", "seconds")


class _Stage(enum.Enum):
    NOT_ASKED = enum.auto()
    ASKED = enum.auto()
    RUNNING = enum.auto()
    DONE = enum.auto()


_stage = _Stage.NOT_ASKED
_config: NoiseConfig | None = None
_record: dict[str, Any] | None = None


def take(vllm_config: VllmConfig) -> bool:
    """Whether attestation is asked for; the key is taken out of ``additional_config``.

    All of ``additional_config`` is in vLLM's compile hash, and this changes no graph.

    Raises:
        ConfigError: the key is neither true nor false.
    """
    given = vllm_config.additional_config
    if not isinstance(given, Mapping) or KEY not in given:
        return False
    wanted = given[KEY]
    if not isinstance(wanted, bool):
        raise ConfigError(f"additional_config[{KEY!r}] is {wanted!r}; it must be true or false")
    vllm_config.additional_config = {key: given[key] for key in given if key != KEY}
    return wanted


def ask(vllm_config: VllmConfig, config: NoiseConfig | None, served: bool) -> None:
    """Says that the server of this process has to attest itself.

    Args:
        vllm_config: its engine's.
        config: the spec that is in force; None for a clean engine.
        served: whether it is a server's engine, which attests itself.

    Raises:
        ConfigError: the engine is clean, is no server's, or shares its noise with another server.
    """
    global _stage, _config, _record
    parallel = vllm_config.parallel_config
    if config is None:
        raise ConfigError(
            f"{ARGUMENT} is given, and this engine is clean: give it a noise too, with "
            "--hetero-noise-scale or --hetero-noise-config"
        )
    if not served:
        raise ConfigError(
            f"{KEY} makes a server attest itself, and this engine is none; for an engine of your "
            "own call hetero_plugin.attestation.attest, or run `hetero-noise attest`"
        )
    for name, value in (
        ("--api-server-count", getattr(parallel, "_api_process_count", 1)),
        ("--data-parallel-size", parallel.data_parallel_size),
    ):
        if value > 1:
            raise ConfigError(
                f"{ARGUMENT} with {name} {value}: the settings of one attestation would disturb "
                f"another's, or reach only some of the engines; leave out {name} or {ARGUMENT}"
            )
    _stage, _config, _record = _Stage.ASKED, config, None


async def attest_once(engine: EngineClient) -> None:
    """Attests the engine if that was asked for and has not been done.

    Raises:
        Refused: it could not be attested; the message names the sites. Raised again for every
            request that comes nevertheless.
    """
    global _stage, _record
    if _stage in (_Stage.NOT_ASKED, _Stage.RUNNING):  # running: its own requests come through here
        return
    from vllm.logger import init_logger

    from hetero_plugin.attestation import require

    assert _config is not None
    if _stage is _Stage.ASKED:
        from hetero_plugin.vllm.probe import attest_async
        from hetero_plugin.vllm.serve import metrics

        _stage = _Stage.RUNNING
        try:
            _record = await attest_async(engine, _config)
        finally:
            _stage = _Stage.DONE
        metrics.forget_changes()
        init_logger("vllm.hetero_noise").info(
            "hetero_noise: attestation at start: %s, %d of %d sites seen in %.1f s, spec %s",
            "passed" if _record["passed"] else "REFUSED",
            _record["seen"],
            _record["of"],
            _record["seconds"],
            _config.fingerprint,
        )
    require(_record, _config.fingerprint)


def shown(whole: bool = False) -> dict[str, Any] | None:
    """The attestation at start, for those who ask the server; None if there was none.

    Args:
        whole: the signed record, instead of its summary.
    """
    if _record is None or whole:
        return _record
    return {key: _record[key] for key in (*_SHOWN, "signature")}

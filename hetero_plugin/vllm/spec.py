"""Which spec an engine runs under, said once, in the process where the engine is configured.

The resolved spec is written back into ``additional_config``. That is how it reaches every process
(also those that inherit no environment), and how it enters vLLM's compile hash together with the
version of this package, whichever way the user gave it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hetero_plugin import __version__
from hetero_plugin.config import ENVIRONMENT, METHOD, ConfigError, NoiseConfig, resolve
from hetero_plugin.sites import Site, select, sites_from_config
from hetero_plugin.state.operands import check_points
from hetero_plugin.vllm import refusals
from hetero_plugin.vllm.quantization import HeteroNoiseQuantConfig

if TYPE_CHECKING:
    from vllm.config import VllmConfig

ARGUMENT = "hetero_noise_argument"
"""Key of ``additional_config`` for a spec that came as an argument of the command line."""
RESOLVED = "hetero_noise_resolved"
"""Key of ``additional_config`` that says: the spec beside it is final."""


def _additional(vllm_config: VllmConfig) -> dict[str, Any]:
    given = vllm_config.additional_config
    if not given:
        return {}
    if not isinstance(given, Mapping):
        raise ConfigError(
            f"additional_config is a {type(given).__name__}; quantization={METHOD} needs a dict, "
            f'such as {{"{METHOD}": {{"scale": 0.05}}}}'
        )
    return dict(given)


def model_sites(vllm_config: VllmConfig) -> tuple[Site, ...]:
    """The sites of the model that an engine is to load.

    A pooling model has no lm_head. One that classifies or scores has a head called ``score``, of
    the same kind; what it is given are pooled rows, so it stays clean, and a rule that selects it
    is refused (`refusals`). One that embeds has none.

    Raises:
        UnknownArchitectureError: its family has no map.
    """
    model = vllm_config.model_config
    given = model.hf_text_config.to_dict()
    if model.runner_type != "pooling":
        return sites_from_config(given)
    given.pop("architectures", None)  # of what is on top; the map is the decoder's
    sites = sites_from_config(given)
    decoder = tuple(site for site in sites if site.kind != "lm_head")
    if model.convert_type == "embed":
        return decoder
    labels = int(getattr(model.hf_config, "num_labels", 0) or 1)
    return (*decoder, Site("score", "lm_head", None, labels, model.get_hidden_size()))


def check_clean(vllm_config: VllmConfig) -> None:
    """Refuses an engine that was given a spec and would run clean.

    Raises:
        ConfigError: ``additional_config`` holds a spec and the quantization method is another.
    """
    given = vllm_config.additional_config
    if isinstance(given, Mapping) and (METHOD in given or ARGUMENT in given):
        raise ConfigError(
            f"additional_config holds {METHOD!r}, but quantization is "
            f"{vllm_config.model_config.quantization!r}, so the engine would run clean: add "
            f"quantization={METHOD!r}, or take {METHOD!r} out of additional_config"
        )
    if os.environ.get(ENVIRONMENT):
        from vllm.logger import init_logger

        init_logger("vllm.hetero_noise").warning(
            "%s is set, but this engine has quantization=%s: it runs CLEAN. "
            "quantization=%s makes it noisy.",
            ENVIRONMENT,
            vllm_config.model_config.quantization,
            METHOD,
        )


def settle(vllm_config: VllmConfig) -> NoiseConfig:
    """Resolves the spec of a noisy engine, checks it against the model and writes it down.

    Called again on the same config, in any process, it returns the same spec.

    Raises:
        ConfigError: a bad spec, two sources that disagree, a target that the model lacks, or a
            feature of vLLM in which the noise would be lost or wrong (`refusals`).
    """
    additional = _additional(vllm_config)
    if RESOLVED in additional:
        config = NoiseConfig.parse(additional[METHOD], where=f"additional_config[{METHOD!r}]")
        stamp = additional[RESOLVED]
        if stamp.get("version") != __version__ or stamp.get("fingerprint") != config.fingerprint:
            raise ConfigError(
                f"the engine was configured by hetero_plugin {stamp.get('version')} with spec "
                f"{stamp.get('fingerprint')}, and this process has hetero_plugin {__version__} and "
                f"reads spec {config.fingerprint}: install one version everywhere"
            )
        return config
    quant_config = vllm_config.quant_config
    assert isinstance(quant_config, HeteroNoiseQuantConfig)
    found = resolve(
        argument=additional.pop(ARGUMENT, None),
        model_config=quant_config.spec,
        additional_config=additional,
        environ=os.environ,
    )
    config = NoiseConfig.parse(None) if found is None else found
    chosen = select(config, model_sites(vllm_config))  # a target that hits nothing is an error here
    check_points(chosen)
    refusals.refuse(vllm_config, chosen)
    additional[METHOD] = config.model_dump(mode="json")
    additional[RESOLVED] = {"fingerprint": config.fingerprint, "version": __version__}
    vllm_config.additional_config = additional
    return config

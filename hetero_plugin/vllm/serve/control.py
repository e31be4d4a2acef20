"""What a running engine can be asked: the worker calls behind ``collective_rpc``.

Arguments and results are JSON-able. Every change invalidates vLLM's prefix cache, whose keys and
values were computed under the old noise (`patches` sees to it in the engine's process).
"""

from __future__ import annotations

import os
from typing import Any

from hetero_plugin.config import ConfigError, table_number, whole_step
from hetero_plugin.state import Phase
from hetero_plugin.vllm.install import Installed, Worker
from hetero_plugin.vllm.probe.formats import format_checks
from hetero_plugin.vllm.probe.keys import shared_keys
from hetero_plugin.vllm.probe.profiles import profile_checks


def _installed(worker: Worker) -> Installed:
    found = getattr(worker, "hetero_noise", None)
    if not isinstance(found, Installed):
        raise RuntimeError(
            "this engine is not noisy: it was started without quantization='hetero_noise'"
        )
    return found


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"{name} is {value!r}; it must be a number")
    return table_number(name, value)


def _whole(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number >= 0")
    return value


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{name} is {value!r}; it must be true or false")
    return value


def _compiled() -> dict[str, int]:
    """Counters that stand still when nothing is compiled."""
    from torch._dynamo.utils import counters
    from vllm.compilation.counter import compilation_counter

    return {
        "dynamo_graphs": int(counters["stats"]["unique_graphs"]),
        "frames": int(counters["frames"]["total"]),
        "inductor": int(counters["inductor"].get("fxgraph_cache_miss", 0)),
        "backend": compilation_counter.num_backend_compilations,
        "aot": compilation_counter.num_aot_compiles,
    }


def hetero_noise_status(worker: Worker) -> dict[str, Any]:
    """What is set: see `NoiseState.status`; also the compiler's counters.

    A clean engine answers ``{"noisy": False}``.
    """
    if not isinstance(getattr(worker, "hetero_noise", None), Installed):
        return {"noisy": False, "rank": worker.rank, "pid": os.getpid()}
    found = _installed(worker)
    return {
        "noisy": True,
        "rank": worker.rank,
        "pid": os.getpid(),
        **found.state.status(),
        "aqn_step": None if found.state.aqn is None else found.state.aqn.step,
        "compiled": _compiled(),
    }


def hetero_noise_sites(worker: Worker) -> list[dict[str, Any]]:
    """The selected sites: name, kind, layer, features, and the scales in force, with the number of
    the rule that each belongs to.
    """
    state = _installed(worker).state
    table = state.scales.tolist()
    scales: dict[str, list[float]] = {}
    rules: dict[str, list[int]] = {}
    for slot in state.slots:
        if slot.stream in ("input", "output", "weight"):
            scales.setdefault(slot.site.name, []).append(table[slot.index])
            rules.setdefault(slot.site.name, []).append(slot.rule_index)
    return [
        {
            "name": chosen.site.name,
            "kind": chosen.site.kind,
            "layer": chosen.site.layer,
            "features": chosen.site.features,
            "scales": scales.get(chosen.site.name, []),
            "rules": rules.get(chosen.site.name, []),
        }
        for chosen in state.selected
    ]


def hetero_noise_keys(worker: Worker, rows: int = 0, weights: bool = False) -> dict[str, Any]:
    """What the layers draw from, for attestation.

    Args:
        rows: how many of the last pass's row keys to give.
        weights: compute every weight with a fixed error once more, and compare.

    Returns:
        ``rows``: that many keys; ``shared``: pairs of sites with one key (there should be none);
        ``held``: how many layers compute with a weight whose error was computed before the pass,
        and ``stale``: those of them with another than their present weight gives;
        ``formats``: checks of the operators of number formats (name, passed, detail).
    """
    found = _installed(worker)
    model = worker.model_runner.get_model()
    return {
        "rows": found.state.draw.keys[: _whole("rows", rows)].tolist(),
        "shared": shared_keys(model),
        "formats": format_checks(model, found.state) + profile_checks(model, found.state),
        "held": len(found.held.all),
        "stale": found.held.stale() if _flag("weights", weights) else [],
    }


def hetero_noise_loads(worker: Worker) -> int:
    """How often weights were loaded into this worker's model since it started.

    Asked after every call to the workers that is not of this package: weights that it wrote past
    ``load_weights`` count too, where something is computed from them.
    """
    found = getattr(worker, "hetero_noise", None)
    if not isinstance(found, Installed):
        return 0
    found.loads += found.held.find_rewritten()
    return found.loads


def hetero_noise_set(
    worker: Worker,
    scale: float | None = None,
    kind: str | None = None,
    site: str | None = None,
    rule: int | None = None,
    enabled: bool | None = None,
    reset: bool = False,
    aqn_enabled: bool | None = None,
) -> dict[str, Any]:
    """Changes scales, or switches noise on and off, of a kind, a site, a rule or everything.

    Args:
        scale: the new scale, >= 0, of float32.
        kind, site: what it applies to; everything that the spec selects if none is given.
        rule: number of a rule of the spec, of whose sites it is then.
        enabled: switches without forgetting the scale. Of everything, AQN's offsets included.
        reset: first back to the scales of the spec, everything switched on.
        aqn_enabled: switches AQN's offsets alone, without forgetting them; what AQN is told
            meanwhile is in force afterwards.

    Raises:
        ConfigError: nothing to do, a bad value, a kind, site or rule that the spec lacks, or
            ``aqn_enabled`` where the spec has no AQN.
    """
    state = _installed(worker).state
    if scale is not None:
        scale = _number("scale", scale)
    if enabled is not None:
        enabled = _flag("enabled", enabled)
    if aqn_enabled is not None:
        aqn_enabled = _flag("aqn_enabled", aqn_enabled)
        if state.aqn is None:
            raise ConfigError("aqn_enabled: the spec of this engine has no aqn to switch")
    if not _flag("reset", reset) and scale is None and enabled is None and aqn_enabled is None:
        raise ConfigError(
            "hetero_noise_set needs a scale, enabled=true/false, aqn_enabled=true/false or "
            "reset=true"
        )
    if rule is not None:
        rule = _whole("rule", rule)
    everything = enabled if kind is None and site is None and rule is None else None
    some = enabled if everything is None else None
    # First what may be refused, so that a refused call has changed nothing.
    if scale is not None or some is not None:
        state.set_scale(scale, kind=kind, site=site, rule=rule, enabled=some)
    if reset:
        state.reset_scales()
        if scale is not None or some is not None:
            state.set_scale(scale, kind=kind, site=site, rule=rule, enabled=some)
    if everything is not None:
        state.set_enabled(everything)
    if aqn_enabled is not None:
        state.set_aqn_enabled(aqn_enabled)
    return hetero_noise_status(worker)


def hetero_noise_step(worker: Worker, step: int, aqn: bool = True) -> dict[str, Any]:
    """Sets the noise step and, where the spec has AQN, σ and z of that step.

    Args:
        step: the training step, >= 0.
        aqn: leave AQN alone if false.
    """
    found = _installed(worker)
    step, with_aqn = whole_step(_whole("step", step)), _flag("aqn", aqn)
    controller = found.aqn if with_aqn else None
    if controller is not None:
        controller.config.sigma(step)  # may refuse, and then nothing has changed
    found.state.set_step(step)
    if controller is not None:
        controller.step(step)
    return hetero_noise_status(worker)


def hetero_noise_aqn(
    worker: Worker,
    step: int | None = None,
    off: bool = False,
    sites: list[str] | None = None,
    sigma: float | None = None,
) -> dict[str, Any]:
    """AQN alone: σ and z of a step, or off (the clean norm weights, bit for bit).

    Args:
        step: the training step, >= 0.
        off: no offset at all.
        sites: for attestation, offsets of size ``sigma`` on these norms and none on the others.
        sigma: with ``step``: this σ, rather than the schedule's; without ``sites`` and ``step``: at
            the noise step in force.

    Raises:
        ConfigError: the spec has no AQN, or none at one of the sites.
    """
    found = _installed(worker)
    if found.aqn is None:
        raise ConfigError("the spec of this engine has no aqn; give it one to use this call")
    if sigma is not None:
        sigma = _number("sigma", sigma)
    if _flag("off", off):
        found.aqn.off()
    elif sites is not None:
        found.aqn.offsets.only(sites, sigma or 0.0)
    else:
        if step is None and sigma is not None:
            step = found.state.step
        found.aqn.step(_whole("step", step), sigma)
    return hetero_noise_status(worker)


def hetero_noise_change(
    worker: Worker,
    step: int | None = None,
    aqn: dict[str, Any] | None = None,
    **setting: Any,
) -> dict[str, Any]:
    """Everything that a request over HTTP may ask for, as one: all of it is made, or none.

    Args:
        step: the noise step, and AQN's.
        aqn: AQN alone, with the keys ``sigma``, ``step`` and ``enabled``, each of them or None.
        setting: of `hetero_noise_set`.

    Returns:
        The status; or ``{"refused": why}``, as an exception would reach the server without its
        class, and look like a fault of the engine's.
    """
    try:
        return _change(worker, _installed(worker), step, aqn, setting)
    except ConfigError as error:
        return {"refused": str(error)}


def _change(
    worker: Worker,
    found: Installed,
    step: int | None,
    aqn: dict[str, Any] | None,
    setting: dict[str, Any],
) -> dict[str, Any]:
    # First what may be refused, so that a refused call has changed nothing.
    if aqn is not None and found.aqn is None:
        raise ConfigError("aqn is given, and the spec of this engine has none")
    offsets = {name: value for name, value in (aqn or {}).items() if value is not None}
    if unknown := sorted(set(offsets) - {"sigma", "step", "enabled"}):
        raise ConfigError(f"aqn: {unknown[0]!r} is none of its keys: sigma, step, enabled")
    if step is not None:
        whole_step(_whole("step", step))
    if "enabled" in offsets:
        setting["aqn_enabled"] = _flag("aqn.enabled", offsets.pop("enabled"))
    moved = found.aqn is not None and (step is not None or bool(offsets))
    if found.aqn is not None and moved:
        offsets.setdefault("step", found.state.step if step is None else step)
        whole_step(_whole("aqn.step", offsets["step"]))
        if "sigma" in offsets:
            _number("aqn.sigma", offsets["sigma"])
        else:
            found.aqn.config.sigma(offsets["step"])
    setting = {name: value for name, value in setting.items() if value is not None}
    if not setting.get("reset"):
        setting.pop("reset", None)
    if setting:
        hetero_noise_set(worker, **setting)
    if step is not None:
        hetero_noise_step(worker, step, aqn=False)
    if moved:
        hetero_noise_aqn(worker, **offsets)
    return hetero_noise_status(worker)


def hetero_noise_phase(worker: Worker, phase: Phase | None = "rollout") -> dict[str, Any]:
    """Says what the engine is doing (``rollout`` or ``train``), for rules bound to a phase."""
    if phase not in ("rollout", "train", None):
        raise ConfigError(f"phase is {phase!r}; it must be 'rollout', 'train' or None")
    _installed(worker).state.set_phase(phase)
    return hetero_noise_status(worker)


def hetero_noise_logits(
    worker: Worker,
    do: str,
    windows: list[list[int]] | None = None,
    sampling: int | None = None,
) -> dict[str, Any]:
    """Compares the next tokens' distributions of texts with those of an earlier pass.

    Between a call that arms and ``take`` each window is to be answered once, as a prompt of its
    own with ``prompt_logprobs``, whole in one pass.

    Args:
        do: ``keep``: keep the logits of these windows, in place of any that were kept;
            ``compare``: compare with those kept; ``take``: disarm; ``forget``: free the memory.
        windows: token ids of each, for ``keep`` and ``compare``.
        sampling: for ``compare``, seed of the tokens that are drawn from both
            (`attestation.sampling.same_sample`); None: none are.

    Returns:
        After a comparison, for ``take``: quantity -> numbers of each window's tokens
        (`attestation.distributions.token_rows`); nothing on a rank that has no logits. Else empty.

    Raises:
        ConfigError: another ``do``, or windows that are none, or not those that were kept.
        RuntimeError: a window was not seen whole.
    """
    from hetero_plugin.vllm.probe.logits import Windows

    found = _installed(worker)
    kept = found.windows
    if do == "forget":
        if kept is not None:
            kept.close()
        found.windows = None
    elif do == "take":
        if kept is None or kept.doing is None:
            raise ConfigError("hetero_noise_logits: nothing is armed; give keep or compare first")
        return kept.take()
    elif do in ("keep", "compare"):
        texts = windows or []
        if not texts or not all(len(text) >= 2 for text in texts):
            raise ConfigError("hetero_noise_logits: give windows of at least 2 token ids each")
        if kept is None:
            if found.tell_rows is not None:
                found.tell_rows()
            kept = found.windows = Windows(worker.model_runner.get_model(), found.rows)
        kept.arm(do, texts, sampling)
    else:
        raise ConfigError(f"do is {do!r}; it must be keep, compare, take or forget")
    return {}


CALLS = (
    hetero_noise_status,
    hetero_noise_sites,
    hetero_noise_keys,
    hetero_noise_loads,
    hetero_noise_set,
    hetero_noise_step,
    hetero_noise_aqn,
    hetero_noise_phase,
    hetero_noise_change,
    hetero_noise_logits,
)

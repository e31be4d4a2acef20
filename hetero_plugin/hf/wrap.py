"""wrap, unwrap and what there is between them."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import nn

from hetero_plugin.config import ConfigError, NoiseConfig, resolve
from hetero_plugin.hf.attachment import ATTACHMENT, Attachment, attachment_of, of_whom, remove
from hetero_plugin.hf.context import ForwardContext, Scope
from hetero_plugin.hf.discover import Adapters, Found, adapter_modules, check_map, discover
from hetero_plugin.hf.experts import check_router, experts_noise, weights_of
from hetero_plugin.hf.layers import ATTRIBUTE, LayerNoise, is_noisy, layer_noise, make_noisy
from hetero_plugin.hf.names import canonical_name, decoder_of, is_inside, layers_of, owner_path
from hetero_plugin.hf.norms import offset_formula
from hetero_plugin.hf.operands import check_products
from hetero_plugin.hf.operators import is_experts, is_router
from hetero_plugin.hf.places import Places
from hetero_plugin.hf.scores import KIND as SCORES
from hetero_plugin.hf.scores import scores_noise
from hetero_plugin.hf.shown import show
from hetero_plugin.sites import fused_with
from hetero_plugin.state import NoiseState, Phase

log = logging.getLogger("hetero_noise")
M = TypeVar("M", bound=nn.Module)
show()


def _device(model: nn.Module) -> torch.device:
    for parameter in model.parameters():
        if parameter.device.type != "meta":
            return parameter.device
    return torch.device("cpu")


def state_of(model: nn.Module) -> NoiseState:
    """The noise state of a wrapped model.

    Raises:
        ConfigError: the model is not wrapped.
    """
    attachment = attachment_of(model)
    if attachment is None:
        raise ConfigError(f"this {type(model).__name__} is not wrapped; call wrap(model) first")
    return attachment.state


def wrap(model: M, config: Any = None, *, adapters: Adapters = "base", quiet: bool = False) -> M:
    """Makes a model noisy, in place.

    Args:
        model: a decoder language model of transformers, before FSDP, DDP and torch.compile; on any
            device, also meta.
        config: NoiseConfig, dict, preset name, JSON text or path; None: what the environment
            says, else the preset ``qerl-fp4``.
        adapters: what of a model with PEFT adapters (LoRA) the spec is about: ``base``, the
            operators of the model itself, adapters staying clean; ``adapter``, the GEMMs of the
            adapters alone; ``both``. An adapter's sites have the kind of the layer that they adapt
            and PEFT's path, such as ``model.layers.0.self_attn.q_proj.lora_A.default``.
        quiet: leave out the log lines.

    Returns:
        The same model.

    Raises:
        ConfigError: it is wrapped already, the spec is wrong, a target is not in the model, or a
            rule `accumulate` is for hardware that does not multiply the weights' dtype (inside
            `torch.autocast`: autocast's).
    """
    attached = attachment_of(model)
    if attached is not None or any(is_noisy(module) for module in model.modules()):
        raise ConfigError(
            f"this model is wrapped already{of_whom(attached, model)}; wrapping twice would add "
            "the error twice. Use update(model, config) to change the spec, or unwrap(model) first"
        )
    if any((getattr(module, "_tp_size", None) or 1) > 1 for module in model.modules()):
        raise ConfigError(
            f"this {type(model).__name__} is split over ranks by transformers (tp_plan), where a "
            "layer has a part of its columns and its noise could not be addressed. Load it "
            "without tp_plan and shard it with FSDP, or use vLLM's tensor parallelism"
        )
    spec = resolve(argument=config) or NoiseConfig.parse(None)
    found = discover(model, adapters)
    if adapters != "adapter":
        check_map(model, spec, found)
    state = NoiseState(spec, [one.site for one in found], device=_device(model))
    check_products(found, state.selected)
    top, decoder = decoder_of(model)
    around = top.split(".") if top else []
    holders = [model.get_submodule(".".join(around[:depth])) for depth in range(len(around))]
    context = ForwardContext(state)
    attachment = Attachment(state, context, found, model, [*holders, decoder], adapters)
    context.attachment = attachment
    try:
        _install_layers(attachment, decoder)
        _install_hooks(attachment, model)
    except Exception:
        remove(attachment, model)
        raise
    object.__setattr__(model, ATTACHMENT, attachment)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    state.warn_swallowed(dtype)
    if not quiet:
        log.info(state.describe(f"{type(model).__name__} (hf)"))
        _tell_of_held(attachment)
        _tell_of_clean_adapters(model, attachment)
        _tell_of_lost_softcap(decoder)
    return model


def _tell_of_lost_softcap(decoder: nn.Module) -> None:
    config = getattr(decoder, "config", None)
    cap = getattr(config, "attn_logit_softcapping", None)
    if cap is not None and getattr(config, "_attn_implementation", None) == "sdpa":
        log.warning(
            "hetero_noise: this %s caps its attention scores at %g, which transformers' sdpa "
            "attention leaves out and vLLM does not: the clean models already differ. Load it with "
            "attn_implementation='eager'",
            type(decoder).__name__,
            cap,
        )


def _tell_of_held(attachment: Attachment) -> None:
    pairs = [pair for module in attachment.modules for pair in weights_of(module)]
    fixed = [weight for noise, weight in pairs if noise.weight.fixed]
    if fixed:
        log.info(
            "hetero_noise: %d weights have a fixed error, computed once for each version and kept "
            "beside them: %.1f MiB (in compiled code and process groups computed at every use)",
            len(fixed),
            sum(weight.nbytes for weight in fixed) / 2**20,
        )


def _tell_of_clean_adapters(model: nn.Module, attachment: Attachment) -> None:
    noisy = {id(module) for module in attachment.modules}
    inside = adapter_modules(model).items()
    clean = [
        path
        for path, m in inside
        if id(m) not in noisy and next(m.parameters(False), None) is not None
    ]
    if clean:
        kinds = sorted(
            {canonical_name(path, "").rpartition(".")[0].rpartition(".")[2] for path in clean}
        )
        log.info(
            "hetero_noise: %d adapter layers stay clean (%s) with adapters=%r; 'both' or 'adapter' "
            "gives the spec to them too",
            len(clean),
            ", ".join(kinds),
            attachment.adapters,
        )


def _install_layers(attachment: Attachment, decoder: nn.Module) -> None:
    state, context = attachment.state, attachment.context
    chosen = {one.site.name for one in state.selected}
    aqn = {site.name for site in state.aqn.sites} if state.aqn is not None else set()
    by_module: dict[int, list[Found]] = {}
    for one in attachment.found:
        by_module.setdefault(id(one.module), []).append(one)
    places = Places(context)
    for sites in by_module.values():
        if any(one.site.name in chosen | aqn for one in sites):
            _install(sites, context, aqn, places)
    _introduce_partners(attachment.found)
    attachment.hooks.append(decoder.register_forward_pre_hook(places.look))


def _introduce_partners(found: list[Found]) -> None:
    """Tells layers whose weights share a scale of one another."""
    sharing = {}
    for one in found:
        noise = one.module.__dict__.get(ATTRIBUTE)
        if isinstance(noise, LayerNoise) and noise.site is one.site and noise.weight.shares:
            sharing[one.site.name] = (noise, one.module)
    for name, (noise, _) in sharing.items():
        noise.partners = tuple(
            sharing[other][1] for other in fused_with(name) if other != name and other in sharing
        )


def _install(sites: list[Found], context: ForwardContext, aqn: set[str], places: Places) -> None:
    """Makes the module that carries some sites noisy, and its copies."""
    noise, sort = _noise(sites, context, aqn)
    for module in (sites[0].module, *sites[0].copies):
        make_noisy(module, noise, sort)
    if isinstance(noise, LayerNoise) and not sites[0].optional:
        for parent, leaf in sites[0].places:
            places.add(parent, leaf, noise)


def _noise(sites: list[Found], context: ForwardContext, aqn: set[str]) -> tuple[Any, str]:
    """What the module that carries some sites shall know, and which forward it shall have."""
    module = sites[0].module
    if is_experts(module):
        return experts_noise(module, [one.site for one in sites], context), "experts"
    if sites[0].site.kind == SCORES:
        return scores_noise(module, [one.site for one in sites], context), "scores"
    noises = {one.site.kind: layer_noise(one.site, context, module) for one in sites}
    attention = noises.pop("attention", None)
    ((kind, noise),) = noises.items()
    if is_router(module):
        check_router(module, noise.site.name)
        return noise, "router"
    noise.attention = attention
    if attention is not None:
        noise.marks += attention.marks
    if noise.site.name in aqn:
        noise.formula = offset_formula(module, noise.site.name)
    return noise, "linear" if isinstance(module, nn.Linear) else kind


def _install_hooks(attachment: Attachment, model: nn.Module) -> None:
    context, hooks = attachment.context, attachment.hooks
    top, decoder = decoder_of(model)
    marks = {site.name: mark for mark, (site, _) in enumerate(context.places)}
    needed = [one for one in attachment.found if one.site.name in marks and not one.optional]
    inside = [one for one in needed if is_inside(one.path, top)]
    context.inside = tuple(marks[one.site.name] for one in inside)

    def follow(module: nn.Module, enter: Any, leave: Any) -> None:
        hooks.append(module.register_forward_pre_hook(enter, with_kwargs=True))
        hooks.append(module.register_forward_hook(leave, always_call=True))

    follow(decoder, context.enter_model, context.leave_model)
    context.hooks = tuple(hooks)
    for layer in layers_of(decoder):
        follow(layer, context.enter_layer, context.leave_layer)
    around = top.split(".") if top else []
    for depth in range(len(around)):
        path = ".".join(around[:depth])
        heads = [
            marks[one.site.name]
            for one in needed
            if one not in inside and owner_path(one.path, top) == path
        ]
        scope = Scope(context, heads)
        follow(model.get_submodule(path), scope.enter, scope.leave)


def unwrap(model: M) -> M:
    """Gives back exactly the model that went into `wrap`, in place.

    Args:
        model: the wrapped model, what it was put into, or anything of it: all of it becomes clean.

    Raises:
        ConfigError: the model is not wrapped, or another library has put a class of its own on a
            noisy layer that would be lost.
    """
    attachment = attachment_of(model)
    if attachment is None:
        raise ConfigError(
            f"this {type(model).__name__} is not wrapped, so there is nothing to unwrap"
        )
    remove(attachment, model)
    return model


def update(model: M, config: Any, *, adapters: Adapters | None = None) -> M:
    """Changes the spec of a wrapped model; a bad spec leaves the old one in force.

    The noise step, the phase and `disabled` stay as they are; AQN is off until its next step.

    Args:
        model: a wrapped model, what it was put into, or anything of it.
        config: as for `wrap`, but not None.
        adapters: as for `wrap`; None: as it was.

    Raises:
        ConfigError: not wrapped, a bad spec, or as `unwrap`.
    """
    old = attachment_of(model)
    if old is None:
        raise ConfigError("this model is not wrapped; call wrap(model, config) first")
    spec = resolve(argument=config)
    if config is None or spec is None:
        raise ConfigError("update got no spec; it takes what wrap takes, but not None")
    # A part would lose the rest: its head, its adapters.
    whole = model if any(module is old.root for module in model.modules()) else old.root
    unwrap(model)
    try:
        wrap(whole, spec, adapters=adapters or old.adapters)
    except Exception:
        wrap(whole, old.state.config, adapters=old.adapters, quiet=True)
        _carry_over(old.state, state_of(model))
        raise
    _carry_over(old.state, state_of(model))
    return model


def _carry_over(old: NoiseState, new: NoiseState) -> None:
    """What the training loop has said, which belongs to no spec."""
    new.take_over(old)


@contextmanager
def disabled(model: nn.Module) -> Iterator[None]:
    """Inside, the model is exactly the clean one: no error, no AQN offset; nothing recompiles.

    Nests. What is set inside (a step, a scale, AQN's noise) is in force afterwards.
    """
    state = state_of(model)
    hold = state.hold()
    try:
        yield
    finally:
        state.release(hold)
        # The model may have been updated inside, and would stay clean for ever.
        now = attachment_of(model)
        if now is not None:
            now.state.release(hold)


@contextmanager
def phase(model: nn.Module, name: Phase) -> Iterator[None]:
    """Says what the model does inside: ``rollout`` or ``train``."""
    state = state_of(model)
    was = state.phase
    state.set_phase(name)
    try:
        yield
    finally:
        now = attachment_of(model)
        if now is not None:
            now.state.set_phase(was)


def set_step(model: nn.Module, step: int) -> None:
    """Sets the noise step of a wrapped model (``resample: step`` draws anew at each)."""
    state_of(model).set_step(step)

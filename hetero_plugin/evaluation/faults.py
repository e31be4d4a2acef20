"""Faults to order: the test hook of ``hetero-noise attest --inject``.

Each takes the noise of a working engine away, or spoils it, in a way that has happened. An
attestation that passes with one of them in it would prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.config.problems import did_you_mean


@dataclass(frozen=True)
class Hook:
    """One fault: what it does, whether it is done to a site, and in which engines it exists."""

    what: str
    site: bool
    engines: tuple[str, ...] = ("hf",)


HOOKS: dict[str, Hook] = {
    "process": Hook("the engine never had the plugin", False, ("hf", "vllm")),
    "skip": Hook("a site is computed past its noisy layer", True, ("hf", "vllm")),
    "stuck": Hook("a site's scale stays 0, as in a captured graph with an old table", True),
    "leak": Hook("a site's noise stays on when it is switched off", True),
    "double": Hook("a site gets its error twice", True),
    "one-row": Hook("all rows have one key", False),
    "one-site": Hook("all sites have one key", False),
}


def parse(text: str, engine: str) -> tuple[str, str | None]:
    """``NAME`` or ``NAME:SITE`` as (name, site).

    Raises:
        ConfigError: no such fault, not in this engine, or a site that is missing or too much.
    """
    name, _, site = text.partition(":")
    hook = HOOKS.get(name)
    if hook is None or engine not in hook.engines:
        here = [known for known, one in HOOKS.items() if engine in one.engines]
        raise ConfigError(
            f"--inject {text}: {engine} has no such fault.{did_you_mean(name, here)} There are: "
            f"{', '.join(f'{n}:SITE' if HOOKS[n].site else n for n in here)}."
        )
    if hook.site != bool(site):
        right = f"{name}:SITE, such as {name}:model.norm" if hook.site else name
        raise ConfigError(f"--inject {text}: it should be {right}.")
    return name, site or None


def without(spec: NoiseConfig, site: str) -> NoiseConfig:
    """A specification that leaves one site out, for an engine that is to lose it."""
    return spec.replace(
        rules=tuple(rule.replace(exclude=(*rule.exclude, site)) for rule in spec.rules)
    )


def inject(name: str, model: Any, site: str | None) -> None:
    """Puts a fault into a wrapped Hugging Face model.

    Raises:
        ConfigError: the site is not noisy in this model.
    """
    from hetero_plugin.hf import state_of, unwrap

    if name == "process":
        unwrap(model)
        return
    if site is not None:
        selected = {chosen.site.name for chosen in state_of(model).selected}
        if site not in selected:
            raise ConfigError(
                f"--inject {name}:{site}: the specification selects no such site."
                f"{did_you_mean(site, selected)}"
            )
    _FAULTS[name](model, site)


def _noises(model: Any) -> Iterator[tuple[Any, Any]]:
    """Each noisy site's module and what it knows; attention's module is the output projection."""
    from hetero_plugin.hf.layers import ATTRIBUTE
    from hetero_plugin.hf.wrap import attachment_of

    attachment = attachment_of(model)
    assert attachment is not None
    for module in attachment.modules:
        noise = module.__dict__[ATTRIBUTE]
        yield module, noise
        if noise.attention is not None:
            yield module, noise.attention


def _chains(noise: Any) -> list[Any]:
    return [noise.output, noise.input, noise.weight, noise.grad_input, noise.grad_weight]


def _of(model: Any, site: str | None) -> tuple[Any, Any]:
    return next(pair for pair in _noises(model) if pair[1].site.name == site)


def _skip(model: Any, site: str | None) -> None:
    for chain in _chains(_of(model, site)[1]):
        chain.stages.clear()


def _freeze(model: Any, site: str | None, value: Callable[[float], float]) -> None:
    from hetero_plugin.hf import state_of

    state = state_of(model)
    slots = [slot for slot in state.slots if slot.site.name == site]
    write = state._write_scales

    def stale() -> None:
        write()
        for slot in slots:
            state.scales[slot.index] = value(slot.rule.scale)
        state.nonzero = tuple(bool(scale != 0) for scale in state.scales)

    state._write_scales = stale  # type: ignore[method-assign]
    stale()


def _double(model: Any, site: str | None) -> None:
    module, noise = _of(model, site)

    def again(layer: Any, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        now = noise.context.rows_of(output, noise)
        return noise.output(output, now.draw._replace(scales=noise.context.state.scales))

    module.register_forward_hook(again)


def _one_row(model: Any, site: str | None) -> None:
    from hetero_plugin.hf.wrap import attachment_of

    attachment = attachment_of(model)
    assert attachment is not None
    context = attachment.context
    enter = context.enter_layer

    def alike(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        result = enter(module, args, kwargs)
        if context.rows is not None:
            context.rows.draw.keys.zero_()
        return result

    for module in model.modules():
        for key, hook in module._forward_pre_hooks.items():
            if hook == enter:
                module._forward_pre_hooks[key] = alike


def _one_site(model: Any, site: str | None) -> None:
    for _, noise in _noises(model):
        for chain in _chains(noise):
            for stage in chain.stages:
                stage.segments[:, 1] = 1  # width, site key, first column, slot


_FAULTS: dict[str, Callable[[Any, str | None], None]] = {
    "skip": _skip,
    "stuck": lambda model, site: _freeze(model, site, lambda asked: 0.0),
    "leak": lambda model, site: _freeze(model, site, lambda asked: asked),
    "double": _double,
    "one-row": _one_row,
    "one-site": _one_site,
}

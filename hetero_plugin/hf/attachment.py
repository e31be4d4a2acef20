"""What wrap leaves on a model: found from anything of it, and taken off again.

A module of the model, of what holds it (PEFT, DDP, torch.compile) and of what was taken out of it
(a merged base, a layer) all lead to one `Attachment`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from hetero_plugin.config import ConfigError
from hetero_plugin.hf.classes import clean_type
from hetero_plugin.hf.context import ForwardContext
from hetero_plugin.hf.discover import Adapters, Found
from hetero_plugin.hf.layers import ATTRIBUTE, is_noisy, make_clean
from hetero_plugin.state import NoiseState

__all__ = ["ATTACHMENT", "Attachment", "attachment_of", "of_whom", "remove"]

ATTACHMENT = "hetero_noise_attachment"


@dataclass(eq=False)
class Attachment:
    """What wrap leaves on a model, and unwrap takes away.

    The model holds it, and every noisy layer by its context: whatever of the model is at hand, a
    base under PEFT or what it merged, a layer, leads here.
    """

    state: NoiseState
    context: ForwardContext
    found: list[Found]
    root: nn.Module
    """What wrap got."""
    holders: list[nn.Module]
    """The decoder and what of the model holds it."""
    adapters: Adapters = "base"
    hooks: list[Any] = field(default_factory=list)

    @property
    def modules(self) -> list[nn.Module]:
        """The noisy modules of the model."""
        return self.noisy(self.root)

    def noisy(self, *models: nn.Module) -> list[nn.Module]:
        """The noisy modules that are ours in some models, each once."""
        every = {id(module): module for model in models for module in model.modules()}
        return [module for module in every.values() if _noisy_by(module) is self]


def _noisy_by(module: nn.Module) -> Attachment | None:
    noise = module.__dict__.get(ATTRIBUTE)
    return None if noise is None else noise.context.attachment


def _attached(module: nn.Module) -> Attachment | None:
    """What one module knows of: as the one that was wrapped, a noisy one, or one with a hook."""
    found: Attachment | None = module.__dict__.get(ATTACHMENT) or _noisy_by(module)
    for hook in () if found else module._forward_pre_hooks.values():
        context = _context_of(hook)
        if context is not None:
            return context.attachment
    return found


def _context_of(hook: Any) -> ForwardContext | None:
    """Whose hook it is, if it is ours: of the context, or of what knows it."""
    owner = getattr(hook, "__self__", None)
    owner = getattr(owner, "context", owner)
    return owner if isinstance(owner, ForwardContext) else None


def attachment_of(model: nn.Module) -> Attachment | None:
    """The attachment of a wrapped model, of what it was put into (PEFT, DDP, compile) or taken out
    of (a merged base, a layer).

    Raises:
        ConfigError: it holds several wrapped models.
    """
    every = (_attached(module) for module in model.modules())
    found = {id(one): one for one in every if one is not None}
    if len(found) > 1:
        names = ", ".join(type(one.root).__name__ for one in found.values())
        raise ConfigError(
            f"this {type(model).__name__} holds {len(found)} wrapped models ({names}), each with a "
            "spec and a state of its own; name the one that is meant"
        )
    return next(iter(found.values()), None)


def of_whom(attached: Attachment | None, model: nn.Module) -> str:
    """For an error: what wrap got, if it was not this."""
    if attached is None or attached.root is model:
        return ""
    return f", with the {type(attached.root).__name__} that wrap got"


def remove(attachment: Attachment, *models: nn.Module) -> None:
    """Takes everything off again, or nothing.

    Raises:
        ConfigError: another library's class stands on a noisy one, and can't be kept.
    """
    noisy = attachment.noisy(attachment.root, *models)
    # Where another library has replaced the class, what is left is our attribute.
    clean = [
        clean_type(module, _site_of(module)) if is_noisy(module) else type(module)
        for module in noisy
    ]
    for module, cls in zip(noisy, clean, strict=True):
        make_clean(module, cls)
    for hook in attachment.hooks:
        hook.remove()
    for model in (attachment.root, *models):
        for module in model.modules():
            _remove_copied_hooks(module, attachment)
    attachment.root.__dict__.pop(ATTACHMENT, None)


def _remove_copied_hooks(module: nn.Module, attachment: Attachment) -> None:
    """The hooks that a copy of a layer has taken along, to which there is no handle."""
    pre: list[Any] = [module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs]
    post: list[Any] = [module._forward_hooks, module._forward_hooks_with_kwargs]
    for hooks, *others in (pre, [*post, module._forward_hooks_always_called]):
        for key, hook in list(hooks.items()):
            if _context_of(hook) is attachment.context:
                for one in (hooks, *others):
                    one.pop(key, None)


def _site_of(module: nn.Module) -> str:
    noise = module.__dict__[ATTRIBUTE]
    site = getattr(noise, "site", None)
    return "a noisy layer" if site is None else site.name

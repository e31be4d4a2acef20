"""A module's own `forward`: what libraries set on an instance, which wins over its class.

A layer is noisy by its class, so an instance's own forward decides whether the noisy one runs.
Three sorts are told apart before the class changes:

- it calls what a library has kept in the module's dictionary (accelerate's hooks, offloading): what
  was kept there becomes the noisy forward;
- it calls the class's forward by name (compressed-tensors): nothing is to be done;
- it computes by itself, or kept the clean forward where nobody can reach it (kernel patches): it
  becomes what the noisy forward calls, so that error is on what goes into it and comes out.

Whatever is set after wrap, or guessed wrongly here, shows as a site that did not run.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

Forward = Callable[..., Any]


@dataclass
class Own:
    """What was in a module's dictionary, and what stands there while it is noisy."""

    kept: dict[str, Any] = field(default_factory=dict)
    """Entries that were the clean forward, by name."""
    forward: Forward | None = None
    """The module's own forward, for the noisy one to call."""


def _code(function: Any) -> types.CodeType | None:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(getattr(function, "__func__", function), "__code__", None)


def own_name(function: Any) -> str:
    """Where a function comes from, as ``package.module.name``."""
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    # Where it was written: functools.wraps takes another's __module__.
    where = getattr(function, "__globals__", {}).get("__name__")
    module = where or getattr(function, "__module__", None) or "?"
    return f"{module}.{getattr(function, '__qualname__', type(function).__name__)}"


def _is_clean(module: nn.Module, value: Any, clean: Any) -> bool:
    """Whether a value is the module's clean forward, as a function or bound to it."""
    bound = isinstance(value, types.MethodType) and value.__self__ is module
    return value is clean or (bound and value.__func__ is clean)


def take(module: nn.Module, clean: Any, noisy: Any, adopt: bool) -> Own:
    """Puts the noisy forward where the clean one was kept, in place.

    Args:
        module: about to become noisy.
        clean, noisy: the forward functions of its class and of its noisy class.
        adopt: whether the noisy forward can call another one than the class's.
    """
    own = Own()
    held = module.__dict__
    for name, value in list(held.items()):
        if _is_clean(module, value, clean):
            own.kept[name] = value
            held[name] = noisy if value is clean else types.MethodType(noisy, module)
    mine = held.get("forward")
    if mine is None or "forward" in own.kept or not adopt:
        return own
    code = _code(mine)
    if code is None or not {"forward", *own.kept} & set(code.co_names):
        own.forward = held.pop("forward")
    return own


def give_back(module: nn.Module, own: Own, noisy: Any) -> None:
    """Undoes `take`, but for what another library has set since."""
    held = module.__dict__
    for name, value in own.kept.items():
        now = held.get(name)
        if now is noisy or getattr(now, "__func__", None) is noisy:
            held[name] = value
    if own.forward is not None:
        held.setdefault("forward", own.forward)

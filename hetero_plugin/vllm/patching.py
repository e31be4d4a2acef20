"""How a function of vLLM is replaced: checked against the signature it had, once, loudly."""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hetero_plugin import __version__

MARK = "_hetero_noise_patch"
Function = Callable[..., Any]
"""A function of vLLM's, whatever its parameters: `Target` says which they are, and checks it."""
Wrapper = Callable[[Function], Function]


class PatchError(RuntimeError):
    """Something in vLLM that this package changes is not what it was."""


@dataclass(frozen=True)
class Target:
    """A function of vLLM that is wrapped: where it is, its parameters, and why.

    ``parameters`` is None where the wrapper hands on whatever comes, and looks at none of it.
    """

    module: str
    owner: str
    name: str
    parameters: tuple[str, ...] | None
    why: str

    def __str__(self) -> str:
        return f"{self.module}.{self.owner}.{self.name}"

    def check(self, function: object) -> None:
        """Raises PatchError if ``function`` has not the parameters that the patch relies on."""
        if not callable(function):
            raise PatchError(f"{self} is gone: {versions()}")
        found = tuple(inspect.signature(function).parameters)
        if self.parameters is not None and found != self.parameters:
            raise PatchError(
                f"{self} takes ({', '.join(found)}), and hetero_noise was written for "
                f"({', '.join(self.parameters)}): {versions()}"
            )


def versions() -> str:
    import vllm

    return (
        f"vllm {vllm.__version__}, hetero_plugin {__version__}; the documentation (docs/vllm.md) "
        "lists the versions of vLLM that work"
    )


def wrap(target: Target, wrapper: Wrapper) -> None:
    """Replaces a function of a class by ``wrapper(original)``, once."""
    owner = getattr(importlib.import_module(target.module), target.owner, None)
    if owner is None:
        raise PatchError(f"{target.module}.{target.owner} is gone: {versions()}")
    static = inspect.getattr_static(owner, target.name, None)
    original = static.__func__ if isinstance(static, staticmethod | classmethod) else static
    if getattr(original, MARK, False):
        return
    function = functools.wraps(original)(wrapper(original)) if callable(original) else original
    parameters = target.parameters
    if isinstance(static, classmethod) and parameters is not None:
        parameters = ("cls", *parameters)
    Target(target.module, target.owner, target.name, parameters, target.why).check(original)
    setattr(function, MARK, True)
    kind = type(static) if isinstance(static, staticmethod | classmethod) else (lambda f: f)
    setattr(owner, target.name, kind(function))


def follow(holder: object, target: Target, wrapper: Wrapper) -> None:
    """Wraps a method of one object, once."""
    bound = getattr(holder, target.name, None)
    if getattr(bound, MARK, False):
        return
    target.check(getattr(type(holder), target.name, None))
    assert bound is not None
    function = functools.wraps(bound)(wrapper(bound))
    setattr(function, MARK, True)
    setattr(holder, target.name, function)

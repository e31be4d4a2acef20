"""The class of a noisy module, also where other libraries change classes too.

FSDP2, `torch.nn.utils.parametrize` and their like put a class of their own, made at run time, on
top of a module's. Noise goes under theirs, right above the module's own class, whoever came first:
so theirs can be taken off while the module is noisy, and noise while theirs is on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

from torch import nn

from hetero_plugin.config import ConfigError

__all__ = ["CLEAN", "SORT", "clean_type", "is_noisy_type", "own_class", "rebased"]

CLEAN = "hetero_clean_class"
"""On a noisy class: the class that it was made from."""
SORT = "hetero_sort"
"""On a noisy class: which forward it has."""


def is_noisy_type(cls: type) -> bool:
    return hasattr(cls, CLEAN)


def own_class(cls: type) -> type:
    """A module's own class, under those which other libraries made on top of it.

    On top is a class made at run time, not to be found under its name in its module, that leaves
    `forward` to the one class of modules under it.
    """
    while not _is_importable(cls) and _is_plain(cls):
        under = [base for base in cls.__bases__ if issubclass(base, nn.Module)]
        others = [base for base in cls.__bases__ if base not in under]
        if len(under) != 1 or under[0] is nn.Module or any(hasattr(o, "forward") for o in others):
            break
        cls = under[0]
    return cls


def clean_type(module: nn.Module, site: str = "") -> type:
    """The class of a noisy module without noise: its own, with what others put on top of it.

    Args:
        module: a noisy one.
        site: its name, for the error.

    Raises:
        ConfigError: a class on top of it can't be made anew.
    """
    cls = type(module)
    noisy = next(one for one in cls.__mro__ if CLEAN in vars(one))
    for one in cls.__mro__[: cls.__mro__.index(noisy)]:
        if issubclass(one, noisy) and not _is_plain(one):
            raise ConfigError(
                f"{site or 'a noisy layer'} has become a {one.__module__}.{one.__qualname__}: a "
                "class that was put on top of the noisy one after wrap and calls it in its own "
                "methods, so that it can't be kept when the noise goes. Undo what put it there, "
                "then unwrap or update"
            )
    return rebased(cls, noisy, vars(noisy)[CLEAN])


def rebased(cls: type, old: type, new: type) -> type:
    """``cls`` with one of its ancestors, or itself, replaced: a new class, but for the ancestor."""
    if cls is old:
        return new
    if old not in cls.__mro__:
        return cls
    bases = tuple(rebased(base, old, new) for base in cls.__bases__)
    space = {k: v for k, v in vars(cls).items() if k not in ("__dict__", "__weakref__")}
    made: type = type(cls)(cls.__name__.replace(old.__name__, new.__name__), bases, space)
    made.__module__ = cls.__module__
    return made


def _is_importable(cls: type) -> bool:
    found: Any = sys.modules.get(cls.__module__)
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is cls


def _is_plain(cls: type) -> bool:
    """Whether a class on top of another does without calling it: no forward, no `super()`."""
    return "forward" not in vars(cls) and not any(
        "super" in code.co_names or "__class__" in code.co_freevars for code in _codes(cls)
    )


def _codes(cls: type) -> Iterator[Any]:
    for value in vars(cls).values():
        if isinstance(value, property):
            functions: tuple[Any, ...] = (value.fget, value.fset, value.fdel)
        else:
            functions = (getattr(value, "__func__", value),)
        for function in functions:
            code = getattr(function, "__code__", None)
            if code is not None:
                yield code

"""Error models: the traits of each, from the registry of `config`, with its arithmetic.

A new one is an entry in `hetero_plugin.config.error_models` and a function under its name in a file
of this folder, all of which are read here; see docs/error_models.md.
"""

from __future__ import annotations

import pkgutil
from dataclasses import replace
from importlib import import_module

from hetero_plugin.config.error_models import ERROR_MODELS, REGISTRY
from hetero_plugin.errors.base import ARITHMETIC, ErrorModel
from hetero_plugin.errors.formats import FORMATS
from hetero_plugin.errors.number_formats import format_model

for _file in pkgutil.iter_modules(__path__, f"{__name__}."):
    import_module(_file.name)

if _lacking := sorted(set(REGISTRY) - set(ARITHMETIC)):
    raise ImportError(
        f"no file of hetero_plugin/errors has the arithmetic of {', '.join(_lacking)}, which the "
        "registry names; docs/error_models.md shows how one is declared"
    )

MODELS: dict[str, ErrorModel] = {
    name: replace(format_model(name), function=ARITHMETIC[name])
    if traits.number_format
    else ErrorModel(**vars(traits), function=ARITHMETIC[name])
    for name, traits in REGISTRY.items()
}
_RELATIVE = {model.relative_of: model for model in MODELS.values() if model.relative_of}


def error_model(name: str, *, relative: bool = False) -> ErrorModel:
    """The error model of a rule.

    Args:
        name: as a rule's ``word``: its ``error``, and the options of a number format; of a profile
            also a `replay_word`.
        relative: as in the rule.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if relative and name in _RELATIVE:
        return _RELATIVE[name]
    if "|" in name and name.partition("|")[0] in FORMATS:
        return format_model(name)
    if name.startswith("profile|"):
        return replace(MODELS["profile"], name=name, measured_word=name)
    if name not in MODELS:
        raise ValueError(f"unknown error model {name!r}; known: {', '.join(sorted(ERROR_MODELS))}")
    return MODELS[name]


__all__ = ["MODELS", "ErrorModel", "error_model"]

"""The registry of error models: name -> `ErrorModel`.

A new one is a function in a file of this folder, a line in `MODELS` and its formula in
`hetero_plugin.config.rule.ERROR_MODELS`; see docs/error_models.md.
"""

from __future__ import annotations

from hetero_plugin.errors.accumulate.model import ACCUMULATE
from hetero_plugin.errors.base import ErrorModel
from hetero_plugin.errors.deterministic import BIAS, DEADZONE, RELATIVE_BIAS, TRUNCATION
from hetero_plugin.errors.gaussian import ABSOLUTE, RELATIVE
from hetero_plugin.errors.number_formats import MODELS as NUMBER_FORMATS
from hetero_plugin.errors.number_formats import nvfp4_model
from hetero_plugin.errors.uniform import RELATIVE_UNIFORM

MODELS: dict[str, ErrorModel] = {
    model.name: model
    for model in (
        RELATIVE,
        ABSOLUTE,
        RELATIVE_UNIFORM,
        BIAS,
        RELATIVE_BIAS,
        TRUNCATION,
        DEADZONE,
        *NUMBER_FORMATS,
        ACCUMULATE,
    )
}


def error_model(name: str, *, relative: bool = False) -> ErrorModel:
    """The error model of a rule.

    Args:
        name: as a rule's ``word``: its ``error``, and of NVFP4 the options.
        relative: as in the rule.

    Raises:
        ValueError: the name is unknown; the message lists the known ones.
    """
    if relative and name == BIAS.name:
        name = RELATIVE_BIAS.name
    if name.startswith("nvfp4|"):
        return nvfp4_model(name)
    if name not in MODELS:
        known = ", ".join(sorted(set(MODELS) - {RELATIVE_BIAS.name}))
        raise ValueError(f"unknown error model {name!r}; known: {known}")
    return MODELS[name]


__all__ = ["MODELS", "ErrorModel", "error_model"]

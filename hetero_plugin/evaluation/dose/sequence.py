"""The dose of a number format: one curve over files that each hold a format in whole.

Formats have no scale that grows from one to the next. What does is the size of their own error, the
root of the mean square of what rounding changes over that of the weights themselves, of the
checkpoint that was measured. With it as the level, a curve over formats is one over levels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.errors.formats import FORMATS
from hetero_plugin.evaluation import formats

Document = Mapping[str, Any]
_SAME = ("engine", "model_sha256", "text_sha256", "task_sha256", "n", "context", "dtype", "scorer",
         "max_tokens", "step")  # fmt: skip


def merged(
    named: Sequence[tuple[str, Document]],
    size: Callable[[Path, NoiseConfig], float] | None = None,
) -> dict[str, Any]:
    """One document whose levels are formats, by the size of their own error.

    Args:
        named: file names, and what ``eval`` or ``fidelity`` wrote of one format each, at scale 1.
        size: gives a format's error on a checkpoint's weights; None: `own_error`.

    Returns:
        As each of them, with ``formats``: of each ``name`` and ``level``.

    Raises:
        ConfigError: they are of different models, texts or questions, two are of one format, or one
            is not of a single number format of weights at scale 1.
    """
    first_name, first = named[0]
    rows: list[dict[str, Any]] = []
    seen: dict[str, str] = {}
    sizes: list[tuple[float, str]] = []
    for name, document in named:
        about = document.get("header") or document
        one = first.get("header") or first
        for key in _SAME:
            if about.get(key) != one.get(key):
                raise ConfigError(f"{first_name} and {name} can't be on one curve: {key} is "
                                  f"{one.get(key)!r} and {about.get(key)!r}")  # fmt: skip
        config = NoiseConfig.parse(about["spec"])
        word = _format(name, config)
        if word in seen:
            raise ConfigError(f"{seen[word]} and {name} are both of {word}")
        seen[word] = name
        whole = [row for row in document["levels"] if row["level"] == 1.0]
        if not whole:
            raise ConfigError(f"{name}: has no level 1, which is the format itself")
        level = (size or own_error)(Path(about["model"]), config)
        rows.append({**whole[0], "level": level})
        sizes.append((level, word))
    clean = [row for row in first["levels"] if row["level"] == 0.0]
    found = {
        **first,
        "levels": [*clean, *sorted(rows, key=lambda row: float(row["level"]))],
        "formats": [{"name": word, "level": level} for level, word in sorted(sizes)],
    }
    floors = [document["floor"] for _, document in named if "floor" in document]
    if floors:  # the largest of them holds for all
        found["floor"] = max(floors, key=lambda floor: _high(floor["measures"]["kl_mean"]))
    return found


def own_error(model: Path, config: NoiseConfig) -> float:
    """A format's relative error on the weights of the sites that a spec selects.

    Raises:
        ConfigError: the checkpoint is not there, or none of these sites has a matrix of its own.
    """
    from hetero_plugin.evaluation import checkpoints
    from hetero_plugin.sites import select, sites_from_config

    path = model / "config.json"
    if not path.is_file():
        raise ConfigError(
            f"{model}: the checkpoint is not there, whose weights say how large a format's own "
            "error is"
        )
    own = checkpoints.config(path)
    chosen, _ = formats.matrices(model, own)
    selected = {one.site.name for one in select(config, sites_from_config(own))}
    matrices = [one for one in chosen if one[0].name in selected]
    if not matrices:
        raise ConfigError(f"{model}: no site of the specification has a matrix of its own")
    measured = list(formats.measure_checkpoint(matrices, [config.rules[0].error]))
    return formats.summary(measured, "all").relative


def words(listed: Sequence[Mapping[str, Any]]) -> str:
    """The sequence in words: ``mxfp8_e4m3 2.6 %, nvfp4 9.5 %``."""
    return ", ".join(f"{row['name']} {100 * row['level']:.3g} %" for row in listed)


def _format(name: str, config: NoiseConfig) -> str:
    """The format that all rules of a specification round weights to."""
    errors = sorted({rule.error for rule in config.rules})
    if len(errors) != 1 or errors[0] not in FORMATS:
        raise ConfigError(
            f"{name}: its error is {', '.join(errors)}; several files are a sequence of number "
            f"formats, one each: {', '.join(FORMATS)}"
        )
    rule = config.rules[0]
    if len(config.rules) != 1 or rule.point != "weight" or rule.options is not None:
        raise ConfigError(
            f"{name}: a format's own size is measured on weights, without options; its "
            "specification should have one rule, with point: weight, and no options"
        )
    return errors[0]


def _high(row: Mapping[str, Any]) -> float:
    return float(row["value"] if row["high"] is None else row["high"])

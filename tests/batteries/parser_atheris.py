"""Coverage-guided fuzzing of the parser: any text is a specification or a ConfigError.

    pip install atheris
    python tests/batteries/parser_atheris.py -max_total_time=600 [CORPUS]

Needs an environment with atheris (it has wheels for Python 3.11) beside this package. It stops at
the first text that is neither, prints it, and exits with another status than 0. A text that is
taken must come back from its canonical form as the same specification.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import atheris

with atheris.instrument_imports(include=["hetero_plugin"]):
    from hetero_plugin.config import AQNConfig, ConfigError, NoiseConfig, NoiseRule
    from hetero_plugin.errors import MODELS

FIELDS = (*NoiseConfig.model_fields, *AQNConfig.model_fields, *NoiseRule.model_fields)
KEYS = sorted({*FIELDS, "preset"})
WORDS = (
    *MODELS,
    *("linear", "norm", "activation", "attention", "lm_head", "all", "all-ops", "qerl-fp4", "*"),
    *("step", "never", "call", "input", "output", "weight", "forward", "backward", "both", "train"),
    *("rollout", "nearest", "stochastic", "error", "warn", "global", "epoch", "cosine", "constant"),
    *("*.q_proj", "re:.*", "model.layers.0.mlp.up_proj", "0-3", "yes", "null", "nan", "1e-3", ""),
)
NUMBERS = (0, 1, -1, 5, 10, 116, 2**31, 2**64, 0.05, 5e-4, 1e-320, 1e308, -0.0)


def value(source: Any, depth: int = 0) -> Any:
    """A value as the bytes say: a word or a number that means something, or anything."""
    sort = source.ConsumeIntInRange(0, 9)
    if sort < 3:
        return source.PickValueInList(list(WORDS))
    if sort < 5:
        return source.PickValueInList(list(NUMBERS))
    if sort == 5:
        return source.PickValueInList([True, False, None])
    if sort == 6:
        return source.ConsumeUnicodeNoSurrogates(6)
    if sort == 7:
        return source.ConsumeFloat()
    if depth > 3:
        return 1
    if sort == 8:
        return [value(source, depth + 1) for _ in range(source.ConsumeIntInRange(0, 3))]
    return mapping(source, depth + 1)


def mapping(source: Any, depth: int = 0) -> dict[str, Any]:
    """Keys of the schema, mostly; under `rules` and `aqn`, mostly what belongs there."""
    made: dict[str, Any] = {}
    for _ in range(source.ConsumeIntInRange(0, 5)):
        key = source.PickValueInList(KEYS)
        if key == "rules" and source.ConsumeBool():
            made[key] = [mapping(source, 3) for _ in range(source.ConsumeIntInRange(0, 3))]
        elif key == "aqn" and source.ConsumeBool():
            made[key] = mapping(source, 3)
        else:
            made[key] = value(source, depth)
    return made


def one(data: bytes) -> None:
    """Plain text, or a document of the schema's words in JSON or in YAML's block style."""
    source = atheris.FuzzedDataProvider(data)
    sort = source.ConsumeIntInRange(0, 3)
    if sort == 0:
        text = source.ConsumeUnicodeNoSurrogates(len(data))
    else:
        document = mapping(source)
        text = json.dumps(document)
        if sort == 2:
            text = "\n".join(f"{key}: {json.dumps(item)}" for key, item in document.items())
        elif sort == 3:  # with a character out of place
            place = source.ConsumeIntInRange(0, len(text))
            text = text[:place] + source.ConsumeUnicodeNoSurrogates(2) + text[place + 1 :]
    try:
        config = NoiseConfig.parse(text)
    except ConfigError:
        return
    again = NoiseConfig.parse(config.canonical)
    assert again.fingerprint == config.fingerprint, text


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()

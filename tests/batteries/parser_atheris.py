"""Coverage-guided fuzzing of the parser: any text is a specification or a ConfigError.

    pip install atheris
    python tests/batteries/parser_atheris.py -max_total_time=600 [CORPUS]

Needs an environment with atheris (it has wheels for Python 3.11) beside this package. It stops at
the first text that is neither, prints it, and exits with another status than 0. A text that is
taken must come back from its canonical form as the same specification.
"""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["hetero_plugin"]):
    from hetero_plugin.config import ConfigError, NoiseConfig

_SEEDS = (
    "linear",
    '{"scale": 0.05}',
    '{"preset": "all", "seed": 3, "resample": "never"}',
    '{"rules": [{"targets": ["*.q_proj"], "scale": 1e-3, "error": "truncation"}], "seed": 1}',
    '{"aqn": {"schedule": "epoch", "epoch_ranges": [[0.05, 0.01]], "stages_per_epoch": 5}}',
    "rules:\n- targets: linear\n  scale: 0.05\n  direction: both\n",
)


def one(data: bytes) -> None:
    """A seed changed in one place, or a text from nothing."""
    source = atheris.FuzzedDataProvider(data)
    text = source.ConsumeUnicodeNoSurrogates(len(data))
    if source.remaining_bytes() == 0 and data and data[0] < 128:
        seed = _SEEDS[data[0] % len(_SEEDS)]
        place = data[1] % (len(seed) + 1) if len(data) > 1 else 0
        text = seed[:place] + text[2:] + seed[place + (len(data) > 2) :]
    try:
        config = NoiseConfig.parse(text)
    except ConfigError:
        return
    again = NoiseConfig.parse(config.canonical)
    assert again.fingerprint == config.fingerprint, text


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()

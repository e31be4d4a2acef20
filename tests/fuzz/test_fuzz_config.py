"""9,500 generated specifications: a right one, or an error in our words; nothing else.

Seeds are fixed: a failure is the same on every machine. The commands are in test_fuzz_cli.py.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from hetero_plugin.config import ERROR_MODELS, PRESETS, AQNConfig, ConfigError, NoiseConfig, resolve
from hetero_plugin.sites import KINDS, select, sites_from_config
from tests.fuzz.examples import fixed

SITES = sites_from_config(
    {
        "model_type": "qwen2",
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_hidden_layers": 3,
        "vocab_size": 272,
    }
)
FOREIGN = ("pydantic", "Traceback", "validation error", "object at 0x", "NoneType")


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([10**400, -(2**63), 2**63, "5e-2", "1e999", "\x00", "\ud800", b"x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=4,
)
WORD = st.sampled_from(
    [*KINDS, "*.down_proj", "model.norm", "re:.*", "re:(", "re:", "down_proj", "", " ", "[", "**"]
) | st.text(max_size=12)
SCALE = st.sampled_from([0, 0.05, 1e-4, "5e-2", 1, -0.0, 1e308, 10**400]) | st.floats() | JUNK
LAYER = (
    st.integers(-2, 5)
    | st.sampled_from(["0-2", "2-0", "1", "0-9999999999", "9" * 5000, "-1", "0-", True])
    | JUNK
)
COUNT = st.integers(-1, 40) | st.sampled_from([10**6, 10**12, 10**400]) | JUNK
GOOD: dict[str, st.SearchStrategy[Any]] = {
    "targets": WORD | st.lists(WORD, max_size=3),
    "exclude": WORD | st.lists(WORD, max_size=2),
    "error": st.sampled_from([*ERROR_MODELS, "gaussian"]),
    "scale": SCALE,
    "relative": st.booleans(),
    "point": st.sampled_from(["input", "output", "weight", "middle"]),
    "direction": st.sampled_from(["forward", "backward", "both", "up"]),
    "phase": st.sampled_from(["rollout", "train", "both", "eval"]),
    "layers": LAYER | st.lists(LAYER, max_size=3),
    "rounding": st.sampled_from(["stochastic", "nearest", "floor"]),
    "options": st.sampled_from([{"hardware": "hopper"}, {"split_k": 4}, {"chunk": 4}, {}]) | JUNK,
}
RULE = st.fixed_dictionaries({}, optional=GOOD)
AQN = st.fixed_dictionaries(
    {},
    optional={
        "schedule": st.sampled_from(["global", "epoch", "constant", "linear", "cosine", "step"]),
        "sigma_start": SCALE,
        "sigma_end": SCALE,
        "stages": COUNT,
        "total_steps": COUNT,
        "epoch_ranges": st.lists(st.tuples(SCALE, SCALE), max_size=3) | JUNK,
        "stages_per_epoch": COUNT,
        "steps_per_epoch": COUNT,
        "epochs": COUNT,
        "precision": st.sampled_from(["float32", "param", "bf16"]),
        "targets": WORD | st.lists(WORD, max_size=2),
        "seed": COUNT,
    },
)
SPEC = st.fixed_dictionaries(
    {},
    optional={
        **GOOD,
        "seed": COUNT,
        "resample": st.sampled_from(["step", "never", "call", "always"]),
        "rules": st.lists(RULE, max_size=3) | JUNK,
        "aqn": AQN | JUNK,
        "preset": st.sampled_from([*PRESETS, "qerl"]) | JUNK,
        "unmapped": st.sampled_from(["error", "warn", "no"]),
        "partial": st.booleans(),
        "sclae": SCALE,
    },
)


def in_our_words(error: ConfigError) -> None:
    text = str(error)
    assert text.strip() and not any(word in text for word in FOREIGN), text


def parsed(value: Any) -> NoiseConfig | None:
    """The specification, checked; None after an error in our words. Any other error goes on."""
    try:
        config = NoiseConfig.parse(value)
    except ConfigError as error:
        in_our_words(error)
        return None
    assert config.rules or config.aqn is not None, "nothing would be noisy, and nobody said so"
    assert all(math.isfinite(rule.scale) and rule.scale >= 0 for rule in config.rules)
    again = NoiseConfig.parse(config.canonical)
    assert again.fingerprint == config.fingerprint
    return config


@fixed(3000)
@given(SPEC)
def test_mappings(data: dict[str, Any]) -> None:
    config = parsed(data)
    if config is None:
        return
    assert not set(data) - set(NoiseConfig.known_keys()), "an unknown key was taken"
    _keeps(data, config)
    try:
        chosen = select(config, SITES)
    except ConfigError as error:
        in_our_words(error)
        return
    indices = {index for one in chosen for index, _ in one.rules}
    assert indices == set(range(len(config.rules))), "a rule selects nothing, and nobody said so"


def _keeps(data: dict[str, Any], config: NoiseConfig) -> None:
    """What was said is what is there: no value gave way to a default."""
    if data.get("rules") is not None:
        assert len(config.rules) == len(data["rules"])
        pairs = list(zip(data["rules"], config.rules, strict=True))
    else:
        pairs = [(data, rule) for rule in config.rules]
    for said, rule in pairs:
        for key in ("error", "point", "direction", "phase", "rounding", "relative"):
            assert key not in said or getattr(rule, key) == said[key], key
        if said.get("scale") is not None:
            assert rule.scale == float(said["scale"])
    for key in ("resample", "unmapped", "partial"):
        assert key not in data or getattr(config, key) == data[key], key


@fixed(1500)
@given(AQN, st.integers(0, 10**7))
def test_schedules(data: dict[str, Any], step: int) -> None:
    try:
        config = AQNConfig(**data)
        sigma = config.sigma(step)
    except ConfigError as error:
        in_our_words(error)
        return
    assert math.isfinite(sigma) and sigma >= 0


@fixed(1000)
@given(JUNK)
@example({"self": None})
def test_anything_at_all(value: Any) -> None:
    parsed(value)


@fixed(1500)
@given(SPEC, st.data())
def test_json_text(data: dict[str, Any], draw: st.DataObject) -> None:
    text = json.dumps(data, default=str)
    cut = draw.draw(st.integers(0, len(text)))
    insert = draw.draw(st.sampled_from(["", "", '"', "{", "[", "}", ",", "\\u0000", "NaN", "//"]))
    parsed(text[:cut] + insert + text[cut:])


@fixed(700)
@given(st.text(alphabet='{}[]:,"\\ \n-&*!<|>%@`#aes0.1', max_size=40))
def test_text(text: str) -> None:
    parsed(text)
    parsed("{" + text)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "spec.yaml"


@fixed(800)
@given(data=SPEC, text=st.text(alphabet="{}[]:,\n -&*!a1", max_size=20), raw=st.binary(max_size=4))
def test_yaml_files(path: Path, data: dict[str, Any], text: str, raw: bytes) -> None:
    written = yaml.safe_dump(json.loads(json.dumps(data, default=str)))
    path.write_bytes((written + text).encode("utf-8", "surrogatepass") + raw)
    parsed(path)


@fixed(1000)
@given(*[st.none() | SPEC | st.sampled_from(["all", "{", "no.yaml", "x"])] * 2, st.text(max_size=9))
def test_places(argument: Any, additional: Any, variable: str) -> None:
    environ = {"HETERO_NOISE_CONFIG": variable}
    beside = None if additional is None else {"hetero_noise": additional}
    try:
        config = resolve(argument=argument, additional_config=beside, environ=environ)
    except ConfigError as error:
        in_our_words(error)
        return
    said = [
        value for value in (argument, additional, variable.strip() or None) if value is not None
    ]
    assert (config is None) == (not said)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"scale": 0.1, "scale": 0.2}', "'scale' is given twice"),
        (
            '{"rules": [{"scale": 0.1, "error": "truncation", "scale": 2}]}',
            "'scale' is given twice",
        ),
        ('{"scale": ' + "9" * 5000 + "}", "not valid JSON"),
        ('{"a":' * 50_000, "nested"),
        ('{"scale": 1, "layers": ["0-9999999999"]}', "layers"),
        ('{"rules": [], "aqn": {"stages": 1000000000}}', "stages"),
        ('{"rules": [], "aqn": {"schedule": "epoch", "epochs": 1000000000}}', "epochs"),
    ],
)
def test_what_once_hung_or_was_silent(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NoiseConfig.parse(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("scale: 0.1\nscale: 0.2\n", "'scale' is given twice"),
        ("a: &a [*a]\n", "too large or nested"),
        ("a: &a [x, x]\nb: &b [*a, *a]\n" + "".join(
            f"{chr(99 + i)}: &{chr(99 + i)} [{', '.join(['*' + chr(98 + i)] * 9)}]\n"
            for i in range(9)
        ), "too large or nested"),
        ("scale: !!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("[" * 5000, "nested|not valid"),
    ],
)  # fmt: skip
def test_yaml_that_is_more_than_data(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        NoiseConfig.parse(path)

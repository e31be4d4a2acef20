"""The specification: forms it is written in, precedence, errors, fingerprint."""

from __future__ import annotations

import json
import logging
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero_plugin.config import (
    ENVIRONMENT,
    ERROR_MODELS,
    FORMATS,
    PRESETS,
    AQNConfig,
    ConfigError,
    NoiseConfig,
    NoiseRule,
    preset,
    resolve,
)
from tests.fuzz.examples import fixed


def test_a_scale_alone_is_the_default_preset_with_that_scale() -> None:
    config = NoiseConfig(scale=0.01)
    assert config == preset("qerl-fp4", scale=0.01)
    assert config.rules == (NoiseRule(targets=("linear",), exclude=("lm_head",), scale=0.01),)


def test_flat_keys_make_one_rule() -> None:
    config = NoiseConfig(
        scale=5e-2, targets=["linear"], exclude=["lm_head"], direction="forward", seed=3
    )
    assert config.seed == 3
    assert len(config.rules) == 1
    assert config.rules[0].direction == "forward"
    # Targets of one's own bring no exclusion along.
    assert NoiseConfig(scale=1, targets="linear").rules[0].exclude == ()


def test_a_preset_with_changes() -> None:
    config = NoiseConfig(preset="all", scale=0.1, seed=9, layers=["0-3"])
    assert config.rules[0].targets == ("linear", "norm")
    assert (config.rules[0].scale, config.rules[0].layers, config.seed) == (0.1, ("0-3",), 9)
    assert PRESETS["all"]["scale"] == 5e-2  # the preset itself is not changed


def test_all_forms_give_the_same(tmp_path: Path) -> None:
    data = {"preset": "mlp", "scale": 0.02, "seed": 4, "aqn": {"total_steps": 50}}
    (tmp_path / "a.json").write_text(json.dumps(data))
    (tmp_path / "a.yaml").write_text("preset: mlp\nscale: 2e-2\nseed: 4\naqn:\n  total_steps: 50\n")
    expected = NoiseConfig(**data)
    for form in (
        data,
        expected,
        json.dumps(data),
        tmp_path / "a.json",
        str(tmp_path / "a.yaml"),
        expected.model_dump(),
        expected.model_dump_json(),
    ):
        assert NoiseConfig.parse(form) == expected
    assert pickle.loads(pickle.dumps(expected)) == expected


def test_hydra_containers_are_taken() -> None:
    omegaconf = pytest.importorskip("omegaconf")
    data = {"rules": [{"targets": ["norm"], "scale": 0.1, "layers": [1, "2-3"]}], "seed": 1}
    assert NoiseConfig.parse(omegaconf.OmegaConf.create(data)) == NoiseConfig(**data)


def test_nothing_means_the_default_preset_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    for value in (None, {}):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="hetero_plugin"):
            assert NoiseConfig.parse(value) == preset("qerl-fp4")
        assert [("qerl-fp4" in r.message) for r in caplog.records] == [True]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({"scal": 1}, r"unknown key 'scal'\. Did you mean 'scale'"),
        ({"rules": [{"scale": 1, "taget": ["x"]}]}, r"rules\[0\].*'taget'.*'targets'"),
        ({"scale": -1}, r"scale: got -1"),
        ({"scale": float("nan")}, "scale: got nan"),
        ({"scale": float("inf")}, "scale: got inf"),
        ({"scale": True}, "scale: got True"),
        ({"scale": "much"}, "scale: got 'much'"),
        ({"rules": [{"targets": ["norm"]}]}, r"rules\[0\]\.scale: is required"),
        ({"preset": "qerl"}, "preset: got 'qerl'.*Did you mean 'qerl-fp4'"),
        ({"preset": "all", "rules": []}, "rules and preset are both given"),
        ({"scale": 1, "rules": [{"scale": 1}]}, "rules and scale are both given"),
        ({"scale": 1, "error": "gaussian_relative"}, "is not an error model"),
        ({"scale": 1, "relative": True}, "systematic_bias"),
        ({"scale": 1, "targets": []}, "targets: got none"),
        ({"scale": 1, "targets": [" "]}, "targets"),
        ({"scale": 1, "targets": ["re:("]}, "regular expression"),
        ({"scale": 1, "layers": []}, "layers"),
        ({"scale": 1, "layers": [-1]}, "layers"),
        ({"scale": 1, "layers": ["5-2"]}, 'it should be "2-5"'),
        ({"scale": 1, "layers": [True]}, "layers"),
        ({"scale": 1, "point": "middle"}, "point: got 'middle'.*'input'"),
        ({"scale": 1, "phase": "eval"}, "phase: got 'eval'"),
        ({"scale": 1, "direction": "sideways"}, "direction"),
        ({"scale": 1, "rounding": "floor"}, "rounding"),
        ({"scale": 1, "resample": "always"}, "resample"),
        ({"scale": 1, "seed": -1}, "seed"),
        ({"scale": 1, "seed": 10**6000}, "seed: got a whole number of 19932 bits"),
        ({"scale": 1, "layers": [10**6000]}, "layers: got a whole number"),
        ({"scale": 1e39}, "infinite in float32"),
        ({"aqn": {"sigma_start": 1e300}, "rules": []}, "sigma_start.*infinite in float32"),
        ('{"rules": ' + "[" * 9999 + "]" * 9999 + "}", "too large or nested"),
        ({"scale": 1, "seed": 2**63}, "seed"),
        ({"scale": 1, "seed": True}, "seed"),
        ({"scale": 1, "aqn": {"schedul": "global"}}, r"aqn: unknown key 'schedul'"),
        ({"rules": []}, "clean run"),
        ({"aqn": {}}, "aqn is given without rules"),
        ('{"scale": 0.1', "not valid JSON"),
        ("qerl-fp5", "Did you mean 'qerl-fp4'"),
        ("nowhere.yaml", "nowhere.yaml: can't be read"),
        (0.05, "float"),
    ],
)
def test_bad_input_says_what_and_where(data: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        NoiseConfig.parse(data)


def test_bad_files_name_the_file(tmp_path: Path) -> None:
    for name, text, words in (
        ("a.yaml", "rules: [", "not valid YAML"),
        ("b.json", "[1]", "got list"),
        ("c.yaml", "scale: -1", "scale: got -1"),
    ):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(ConfigError, match=f"{name}.*{words}"):
            NoiseConfig.parse(path)
    with pytest.raises(ConfigError, match=r"spec\.toml.*suffix"):
        NoiseConfig.parse(tmp_path / "spec.toml")


def test_a_config_error_is_a_value_error_and_survives_a_process_boundary() -> None:
    with pytest.raises(ValueError) as caught:
        NoiseConfig(scale=-1)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert isinstance(copy, ConfigError)
    assert (str(copy), copy.problems) == (str(caught.value), caught.value.problems)


def test_a_specification_cannot_be_changed_only_replaced() -> None:
    config = NoiseConfig(scale=0.1)
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 3  # type: ignore[misc]
    assert config.replace(seed=3).rules == config.rules
    with pytest.raises(ConfigError, match="seed"):
        config.replace(seed=-3)


def test_fingerprint_is_of_the_meaning() -> None:
    one = NoiseConfig(scale=0.1, targets=["norm", "linear"], layers=["0-2"])
    same = NoiseConfig.parse(
        {"layers": [2, 1, 0], "targets": ["linear", "norm", "norm"], "scale": "1e-1"}
    )
    assert one.fingerprint == same.fingerprint
    assert len(one.fingerprint) == 16 and int(one.fingerprint, 16) >= 0
    assert NoiseConfig(scale=-0.0).fingerprint == NoiseConfig(scale=0).fingerprint
    # It is stored with results, so it may not change unnoticed.
    assert preset("qerl-fp4").fingerprint == "01e69472a782f99f"


CHANGES: list[dict[str, Any]] = [
    {"scale": 0.2},
    {"seed": 1},
    {"resample": "never"},
    {"unmapped": "warn"},
    {"partial": True},
    {"targets": ["linear"]},
    {"exclude": ["model.norm", "lm_head"]},
    {"error": "absolute_gaussian"},
    {"error": "systematic_bias"},
    {"error": "systematic_bias", "relative": True},
    {"point": "input"},
    {"direction": "forward"},
    {"phase": "train"},
    {"layers": [0]},
    {"rounding": "nearest"},
    {"aqn": {"total_steps": 100}},
    {"aqn": {"total_steps": 100, "seed": 1}},
]


def test_fingerprint_differs_with_every_setting() -> None:
    prints = [NoiseConfig(**{"preset": "all", "scale": 0.1, **change}) for change in CHANGES]
    prints.append(NoiseConfig(preset="all", scale=0.1))
    assert len({config.fingerprint for config in prints}) == len(prints)


@fixed(100)
@given(
    scale=st.floats(0, 10),
    seed=st.integers(0, 2**63 - 1),
    error=st.sampled_from(sorted(set(ERROR_MODELS) - {"profile"})),  # which needs a file
    targets=st.lists(st.sampled_from(["linear", "norm", "*.q_proj"]), min_size=1),
    layers=st.none() | st.lists(st.integers(0, 99) | st.just("2-7"), min_size=1),
    aqn=st.none() | st.just(AQNConfig(schedule="epoch", epoch_ranges=[(0.05, 0.01)])),
)
def test_every_form_of_writing_round_trips(**settings: Any) -> None:
    if settings["error"] in (*FORMATS, "accumulate"):  # whose scale ends at 1
        settings["scale"] = min(settings["scale"], 1.0)
    if settings["error"] == "accumulate":
        settings["options"] = {"hardware": "hopper", "split_k": 2}
    config = NoiseConfig(**settings)
    assert NoiseConfig.parse(config.model_dump()) == config
    assert NoiseConfig.parse(config.model_dump_json()) == config
    again = NoiseConfig.parse(config.canonical)
    assert again.canonical == config.canonical and again.fingerprint == config.fingerprint


def test_resolve_takes_each_place() -> None:
    spec = {"scale": 0.1}
    expected = NoiseConfig(**spec)
    assert resolve(environ={}) is None
    assert resolve(environ={ENVIRONMENT: "  "}) is None
    assert resolve(argument=spec, environ={}) == expected
    checkpoint = {"quant_method": "hetero_noise", **spec}
    assert resolve(model_config=checkpoint, environ={}) == expected
    assert resolve(additional_config={"hetero_noise": spec, "other": 1}, environ={}) == expected
    assert resolve(environ={ENVIRONMENT: '{"scale": 0.1}'}) == expected
    # The same meaning in two places is no conflict, however it is written.
    assert (
        resolve(
            model_config=checkpoint,
            additional_config={"hetero_noise": '{"preset": "qerl-fp4", "scale": 1e-1}'},
            environ={},
        )
        == expected
    )
    # Another quantization method is not ours; a bare one of ours is the default.
    assert resolve(model_config={"quant_method": "awq", "bits": 4}, environ={}) is None
    bare = resolve(model_config={"quant_method": "hetero_noise"}, environ={})
    assert bare == preset("qerl-fp4")


def test_the_process_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT, "rmsnorm")
    assert resolve() == preset("rmsnorm")


def test_an_argument_overrides_the_environment_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, logger="hetero_plugin"):
        config = resolve(argument={"scale": 0.1}, environ={ENVIRONMENT: "all"})
    assert config == NoiseConfig(scale=0.1)
    assert len(caplog.records) == 1
    assert "overrides" in caplog.text and ENVIRONMENT in caplog.text


ARGUMENT = {"argument": {"scale": 0.1}}
MODEL = {"model_config": {"quant_method": "hetero_noise", "scale": 0.2}}
ADDITIONAL = {"additional_config": {"hetero_noise": {"scale": 0.3}}}
ENVIRON = {"environ": {ENVIRONMENT: '{"scale": 0.4}'}}


@pytest.mark.parametrize(
    ("one", "other", "names"),
    [
        (ARGUMENT, MODEL, ("argument", "quantization_config")),
        (ARGUMENT, ADDITIONAL, ("argument", "additional_config")),
        (MODEL, ADDITIONAL, ("quantization_config", "additional_config")),
        (MODEL, ENVIRON, ("quantization_config", ENVIRONMENT)),
        (ADDITIONAL, ENVIRON, ("additional_config", ENVIRONMENT)),
    ],
)
def test_any_other_two_that_differ_are_an_error_that_names_both(
    one: dict[str, Any], other: dict[str, Any], names: tuple[str, str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(**{"environ": {}, **one, **other})
    assert all(name in str(caught.value) for name in names)


def test_an_argument_settles_nothing_between_two_others() -> None:
    # The environment may be overridden, but the model's own word may not.
    with pytest.raises(ConfigError, match="quantization_config"):
        resolve(**ARGUMENT, **MODEL, **ENVIRON)


def test_an_error_in_a_place_names_the_place() -> None:
    with pytest.raises(ConfigError, match=ENVIRONMENT):
        resolve(environ={ENVIRONMENT: '{"scale": -1}'})
    with pytest.raises(ConfigError, match=r'additional_config\["hetero_noise"\]: .*scale'):
        resolve(additional_config={"hetero_noise": {"scale": -1}}, environ={})
    with pytest.raises(ConfigError, match=r"under the key 'hetero_noise'"):
        resolve(additional_config={"scale": 0.05}, environ={})


def test_the_names_of_error_models_are_those_that_are_implemented() -> None:
    from hetero_plugin.errors import MODELS, error_model

    assert {error_model(name).name for name in ERROR_MODELS} <= set(MODELS)
    # The one form with a switch of its own: `relative: true`.
    assert set(MODELS) - set(ERROR_MODELS) == {error_model("systematic_bias", relative=True).name}


def test_a_seed_of_thousands_of_digits_is_refused_in_words(tmp_path: Path) -> None:
    """Python prints no integer of more than 4,300 digits; an error must not try to."""
    path = tmp_path / "spec.yaml"
    path.write_text("scale: 0.1\nseed: 0x" + "f" * 4000 + "\n")
    with pytest.raises(ConfigError, match=r"line 2, column 7 is a number of 4002 characters"):
        NoiseConfig.parse(path)
    with pytest.raises(ConfigError, match=r"seed: got a whole number of 16000 bits"):
        NoiseConfig.parse({"scale": 0.1, "seed": 16**4000 - 1})
    deep: Any = []
    for _ in range(9999):
        deep = [deep]
    for spec in ({"rules": deep}, {"scale": 1, "seed": deep}, {"scale": 1, "targets": deep}):
        with pytest.raises(ConfigError):
            NoiseConfig(**spec)
        with pytest.raises(ConfigError, match="nested"):
            NoiseConfig.parse(spec)


@pytest.mark.parametrize(
    "rule,direction",
    [
        ({"error": "absolute_gaussian"}, "forward"),
        ({"error": "systematic_bias"}, "forward"),
        ({"error": "systematic_bias", "relative": True}, "both"),
        ({"error": "truncation"}, "forward"),
        ({"error": "deadzone"}, "both"),
        ({}, "both"),
        ({"error": "absolute_gaussian", "direction": "both"}, "both"),
    ],
)
def test_an_error_in_units_of_activations_is_forward_alone(rule: Any, direction: str) -> None:
    config = NoiseConfig(scale=0.05, **rule)
    assert config.rules[0].direction == direction
    assert NoiseConfig.parse(config.canonical) == config
    written = NoiseConfig(scale=0.05, **{**rule, "direction": direction})
    assert written.fingerprint == config.fingerprint, "said or not"


def test_fingerprints_of_relative_specs_are_what_they_were() -> None:
    assert NoiseConfig(scale=0.1).fingerprint == "6de1f97377c1cf6f"
    assert NoiseConfig(scale=0.1, error="deadzone").fingerprint == "d043c0dccb473669"


FACTORS = {"rules": [], "aqn": {"schedule": "constant", "multipliers": {"1-2": 1.5, 5: "1.2"}}}


def test_factors_of_aqn_are_kept_in_one_form(tmp_path: Path) -> None:
    """A mapping, its pairs, a file of it and the canonical JSON mean the same."""
    config = NoiseConfig.parse(FACTORS)
    assert config.aqn is not None
    assert [config.aqn.factor(layer) for layer in (0, 1, 2, 5, None)] == [1, 1.5, 1.5, 1.2, 1]
    assert NoiseConfig.parse(config.canonical) == config
    assert '"multipliers":{"1":1.5,"2":1.5,"5":1.2}' in config.canonical
    assert hash(config) == hash(NoiseConfig.parse(config.canonical))
    assert config.replace(seed=3).aqn == config.aqn
    for name, text in (
        ("map.json", '{"1-2": 1.5, "5": 1.2}'),
        ("map.yaml", "found: 3 layers\nmultipliers: {1: 1.5, 2: 1.5, 5: 1.2}\n"),
    ):
        (tmp_path / name).write_text(text)
        spec = tmp_path / "spec.yaml"
        spec.write_text(f"rules: []\naqn: {{schedule: constant, multipliers: {name}}}\n")
        assert NoiseConfig.parse(spec).fingerprint == config.fingerprint
        given = {"schedule": "constant", "multipliers": tmp_path / name}
        assert NoiseConfig(rules=[], aqn=given).fingerprint == config.fingerprint


def test_a_specification_without_factors_has_the_fingerprint_it_had() -> None:
    config = NoiseConfig(rules=[], aqn={"total_steps": 60})
    assert "multipliers" not in config.canonical and '"aqn":{"epoch' in config.canonical
    assert config.fingerprint != config.replace(aqn={"layers": [3], "total_steps": 60}).fingerprint


@pytest.mark.parametrize(
    ("aqn", "words"),
    [
        ({"multipliers": [1.0, 0.0]}, "aqn.multipliers: layer 1: got 0.0; a factor should be"),
        ({"multipliers": [True]}, "layer 0: got True"),
        ({"multipliers": {"3": float("nan")}}, "layer 3: got nan"),
        ({"multipliers": {"1-3": 2, 2: 1}}, "layer 2 is given twice"),
        ({"multipliers": {"x": 2}}, "got 'x'; it should be a layer number"),
        ({"multipliers": []}, "multipliers: got none"),
        ({"multipliers": {}}, "multipliers: got none"),
        ({"multipliers": "/etc/hosts.json"}, "got '/etc/hosts.json'; it should be a list"),
        ({"multipliers": 2}, "got 2; it should be a list"),
        ({"layers": [1], "multipliers": {2: 2}}, "multipliers: layer 2 is not among `layers`"),
        ({"layers": []}, "aqn.layers: got an empty list"),
        ({"layers": ["5-2"]}, "ends before it starts"),
    ],
)
def test_factors_that_say_nothing_clear_are_refused(aqn: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        NoiseConfig(rules=[], aqn=aqn)
    assert words in str(caught.value)


@pytest.mark.parametrize("text", ["[1, ", "3", "null", "multipliers: text", "{1: -1}"])
def test_a_file_of_factors_that_holds_none_is_named(text: str, tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"map\.yaml: "):
        AQNConfig(schedule="constant", multipliers=path)
    with pytest.raises(ConfigError, match=r"none.yaml: can't be read"):
        AQNConfig(schedule="constant", multipliers=tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"map.txt: the suffix"):
        AQNConfig(schedule="constant", multipliers=tmp_path / "map.txt")

"""From the user's words to the spec of an engine: arguments, precedence, compile hash, errors."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("vllm")

from vllm.engine.arg_utils import AsyncEngineArgs, EngineArgs
from vllm.utils.argparse_utils import FlexibleArgumentParser

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.vllm import install, register, spec
from hetero_plugin.vllm.held import HeldWeights
from tests.models import config_only

pytestmark = pytest.mark.compat("command line", short=True)


@pytest.fixture(scope="module", autouse=True)
def _registered() -> None:
    """For tests that ask for no model too, in whatever order."""
    register()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model's config.json: no weights are needed to configure an engine."""
    return config_only(tmp_path_factory.mktemp("model"))


def parsed(*words: str) -> EngineArgs:
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    return EngineArgs.from_cli_args(parser.parse_args([*words]))


def configured(args: EngineArgs) -> Any:
    args.skip_tokenizer_init = True
    args.kv_cache_memory_bytes = 1 << 24
    return args.create_engine_config()


def test_scale_alone_selects_the_method_and_the_preset(model: str) -> None:
    args = parsed("--model", model, "--hetero-noise-scale", "5e-2")
    assert args.quantization == "hetero_noise"
    made = configured(args)
    assert spec.settle(made) == NoiseConfig(scale=5e-2)
    assert spec.settle(made).rules[0].exclude == ("lm_head",)


@pytest.mark.parametrize("form", ["json", "file", "preset"])
def test_config_takes_json_a_file_or_a_preset(model: str, form: str, tmp_path: Path) -> None:
    expected = NoiseConfig(preset="all", scale=5e-2)
    text = {"json": '{"preset": "all"}', "preset": "all", "file": str(tmp_path / "spec.yaml")}
    (tmp_path / "spec.yaml").write_text("preset: all\n")
    args = parsed("--hetero-noise-config", text[form], "--model", model)
    assert spec.settle(configured(args)).fingerprint == expected.fingerprint


@pytest.mark.parametrize("first", [True, False])
def test_order_beside_additional_config_does_not_matter(model: str, first: bool) -> None:
    ours = ["--hetero-noise-scale", "0.01"]
    theirs = ["--additional-config", '{"other": 1}']
    made = configured(parsed("--model", model, *(ours + theirs if first else theirs + ours)))
    assert made.additional_config["other"] == 1
    assert spec.settle(made).rules[0].scale == 0.01


def test_underscores_work_as_in_the_rest_of_vllm(model: str) -> None:
    assert parsed("--model", model, "--hetero_noise_scale=0.5").quantization == "hetero_noise"


def test_a_setting_is_parsed_once_in_the_front_end_and_once_in_a_worker(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parses = 0
    build = NoiseConfig.__init__

    def counted(self: NoiseConfig, **data: Any) -> None:
        nonlocal parses
        parses += 1
        build(self, **data)

    monkeypatch.setattr(NoiseConfig, "__init__", counted)
    (tmp_path / "spec.yaml").write_text("{preset: all, scale: 0.25}")
    made = configured(
        parsed("--model", model, "--hetero-noise-config", str(tmp_path / "spec.yaml"))
    )
    assert parses == 1
    json.dumps(made.additional_config)  # plain data, also for the compile hash

    worker = SimpleNamespace(
        vllm_config=pickle.loads(pickle.dumps(made)),  # as it comes to another process
        device=torch.device("cpu"),
        rank=0,
        model_runner=SimpleNamespace(get_model=nn.Module),
    )
    monkeypatch.setattr(install, "make_noisy", lambda *args: (None, HeldWeights()))
    monkeypatch.setattr(install, "_check_head", lambda model: None)
    parses = 0
    installed = install.install(worker)
    assert parses == 1
    assert set(installed.state.scales[1:].tolist()) == {0.25}


def test_arguments_survive_the_way_to_another_server_process(model: str) -> None:
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    words = ["--model", model, "--hetero-noise-config", '{"preset": "all", "scale": 0.25}']
    args = pickle.loads(pickle.dumps(parser.parse_args(words)))
    made = configured(EngineArgs.from_cli_args(args))
    assert spec.settle(made) == NoiseConfig(preset="all", scale=0.25)


def test_async_engine_args_have_the_arguments_too(model: str) -> None:
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    args = parser.parse_args(["--model", model, "--hetero-noise-scale", "0.1"])
    assert AsyncEngineArgs.from_cli_args(args).quantization == "hetero_noise"


@pytest.mark.parametrize("value", ["-1", "nan", "inf", "much"])
def test_a_bad_scale_is_refused_by_the_parser(value: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parsed(f"--hetero-noise-scale={value}")
    message = capsys.readouterr().err
    assert "--hetero-noise-scale" in message and repr(value) in message and ">= 0" in message


def test_a_bad_spec_is_refused_by_the_parser(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit):
        parsed("--hetero-noise-config", '{"scal": 0.1}')
    message = capsys.readouterr().err
    assert "scal" in message and "scale" in message


def test_arguments_that_contradict_are_errors(model: str) -> None:
    with pytest.raises(ConfigError, match="both given"):
        parsed("--hetero-noise-scale", "0.1", "--hetero-noise-config", "all")
    with pytest.raises(ConfigError, match="fp8"):
        parsed("--hetero-noise-scale", "0.1", "--quantization", "fp8")


def test_without_the_arguments_nothing_changes(model: str) -> None:
    args = parsed("--model", model)
    assert args.quantization is None
    made = configured(args)
    assert made.quant_config is None and not made.additional_config


def test_bare_quantization_means_the_preset(model: str) -> None:
    made = configured(EngineArgs(model, quantization="hetero_noise"))
    assert spec.settle(made).fingerprint == NoiseConfig(preset="qerl-fp4").fingerprint


def test_the_environment_reaches_the_config(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETERO_NOISE_CONFIG", '{"scale": 0.125}')
    made = configured(EngineArgs(model, quantization="hetero_noise"))
    monkeypatch.delenv("HETERO_NOISE_CONFIG")  # processes started elsewhere may not have it
    assert spec.settle(made).rules[0].scale == 0.125


def test_an_argument_overrides_the_environment(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HETERO_NOISE_CONFIG", '{"scale": 0.125}')
    made = configured(parsed("--model", model, "--hetero-noise-scale", "0.25"))
    assert spec.settle(made).rules[0].scale == 0.25


def test_two_sources_that_disagree_are_an_error(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HETERO_NOISE_CONFIG", '{"scale": 0.125}')
    args = EngineArgs(
        model, quantization="hetero_noise", additional_config={"hetero_noise": {"scale": 0.5}}
    )
    with pytest.raises(ConfigError, match=r"(?s)additional_config.*HETERO_NOISE_CONFIG"):
        configured(args)


def test_a_spec_without_the_method_is_refused_rather_than_run_clean(model: str) -> None:
    args = EngineArgs(model, additional_config={"hetero_noise": {"scale": 0.5}})
    with pytest.raises(ConfigError, match="run clean"):
        configured(args)


def test_a_target_that_the_model_lacks_is_an_error_before_any_process_starts(model: str) -> None:
    given = {"hetero_noise": {"scale": 0.1, "targets": ["model.layers.7.mlp.down_proj"]}}
    args = EngineArgs(model, quantization="hetero_noise", additional_config=given)
    with pytest.raises(ConfigError, match=r"layers\.7"):
        configured(args)


def test_the_models_own_quantization_config_counts(model: str, tmp_path: Path) -> None:
    config = json.loads((Path(model) / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "hetero_noise", "scale": 0.375}
    (tmp_path / "config.json").write_text(json.dumps(config))
    made = configured(EngineArgs(str(tmp_path)))
    assert made.model_config.quantization == "hetero_noise"
    assert spec.settle(made).rules[0].scale == 0.375


def test_the_compile_hash_tells_specs_apart_by_whatever_route(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hashed(scale: float, route: str) -> str:
        monkeypatch.delenv("HETERO_NOISE_CONFIG", raising=False)
        given = {"scale": scale}
        if route == "argument":
            return configured(
                parsed("--model", model, f"--hetero-noise-scale={scale}")
            ).compute_hash()
        if route == "environment":
            monkeypatch.setenv("HETERO_NOISE_CONFIG", json.dumps(given))
            return configured(EngineArgs(model, quantization="hetero_noise")).compute_hash()
        return configured(
            EngineArgs(
                model, quantization="hetero_noise", additional_config={"hetero_noise": given}
            )
        ).compute_hash()

    routes = ("argument", "environment", "additional_config")
    one, other = ({hashed(scale, route) for route in routes} for scale in (0.1, 0.2))
    assert len(one) == len(other) == 1
    assert one != other
    assert configured(EngineArgs(model)).compute_hash() not in one | other


def test_another_version_of_the_package_is_refused_and_hashed(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = configured(EngineArgs(model, quantization="hetero_noise"))
    before = made.compute_hash()
    monkeypatch.setattr(spec, "__version__", "9.9.9")
    with pytest.raises(ConfigError, match=r"9\.9\.9"):
        spec.settle(made)
    assert configured(EngineArgs(model, quantization="hetero_noise")).compute_hash() != before

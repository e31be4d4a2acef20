"""Attestation of a server at its start: who may ask for it, and what it leaves behind."""

from __future__ import annotations

import os
from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.engine.arg_utils import EngineArgs
from vllm.usage.usage_lib import UsageContext
from vllm.utils.argparse_utils import FlexibleArgumentParser

from hetero_plugin.config import ConfigError
from hetero_plugin.vllm import register
from hetero_plugin.vllm.serve import self_attest
from tests.models import config_only

SERVER = UsageContext.OPENAI_API_SERVER


@pytest.fixture(autouse=True)
def _nothing_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (
        ("_stage", self_attest._Stage.NOT_ASKED),
        ("_config", None),
        ("_record", None),
    ):
        monkeypatch.setattr(self_attest, name, value)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    register()
    return config_only(tmp_path_factory.mktemp("model"))


def configured(model: str, *words: str, context: UsageContext | None = SERVER, **more: Any) -> Any:
    parser = EngineArgs.add_cli_args(FlexibleArgumentParser())
    args = EngineArgs.from_cli_args(parser.parse_args(["--model", model, *words]))
    args.skip_tokenizer_init = True
    args.kv_cache_memory_bytes = 1 << 24
    for name, value in more.items():
        setattr(args, name, value)
    return args.create_engine_config(usage_context=context)


def test_it_is_asked_of_a_server_and_no_graph_is_another_for_it(model: str) -> None:
    plain = configured(model, "--hetero-noise-scale=0.05")
    assert self_attest._stage is self_attest._Stage.NOT_ASKED
    asked = configured(model, "--hetero-noise-attest", "--hetero-noise-scale=0.05")
    assert self_attest._stage is self_attest._Stage.ASKED
    assert self_attest._config is not None
    assert (
        self_attest._config.fingerprint
        == plain.additional_config["hetero_noise_resolved"]["fingerprint"]
    )
    assert asked.additional_config == plain.additional_config
    assert asked.compute_hash() == plain.compute_hash()


@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        (["--hetero-noise-attest"], {}, "this engine is clean"),
        (
            ["--hetero-noise-attest", "--hetero-noise-scale=0.1"],
            {"context": UsageContext.LLM_CLASS},
            "this engine is none",
        ),
        (
            ["--hetero-noise-attest", "--hetero-noise-scale=0.1"],
            {"_api_process_count": 2, "_api_process_rank": 0},
            "--api-server-count 2",
        ),
        (
            ["--hetero-noise-attest", "--hetero-noise-scale=0.1", "--data-parallel-size=2"],
            {},
            "--data-parallel-size 2",
        ),
        (
            ["--hetero-noise-scale=0.1", '--additional-config={"hetero_noise_attest": "yes"}'],
            {},
            "true or false",
        ),
    ],
)
def test_where_it_can_not_be_done_it_is_an_error(
    model: str, words: list[str], more: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        configured(model, *words, **more)
    assert self_attest._stage is self_attest._Stage.NOT_ASKED


def test_sleep_mode_is_refused_on_cpu_by_vllm_itself(model: str) -> None:
    for words in ([], ["--hetero-noise-scale=0.05"]):
        with pytest.raises(ValueError, match="Sleep mode is not supported on current platform"):
            configured(model, *words, context=None, enable_sleep_mode=True)


def test_vllm_spawns_its_processes_on_cpu(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    configured(model, "--hetero-noise-scale=0.05", context=None)
    assert os.environ["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn"

"""LoRA in verl without Ray or vLLM: the actor as verl builds it, the server, what is refused.

6 s in all, most of it imports.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

pytest.importorskip("verl")

from hetero_plugin import disabled, wrap
from hetero_plugin.attestation import attest, problems, signature
from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.hf.probe import HFProbe
from hetero_plugin.sites import sites_from_config
from hetero_plugin.verl import active, attestation, lora, patches, preflight
from hetero_plugin.verl.settings import RunNoise, RunOptions
from tests.verl.test_verl_settings import config_of, noisy

MODEL = "actor_rollout_ref__model"
SPEC: dict[str, Any] = {
    "rules": [
        {"targets": ["linear", "norm"], "scale": 0.05},
        {"targets": ["*.down_proj"], "error": "nvfp4", "point": "weight"},
    ],
    "seed": 7,
    "aqn": {"schedule": "constant", "sigma_start": 0.02},
}
IDS = torch.randint(1, 128, (2, 11), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERL_PLATFORM", "cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("HETERO_NOISE_CONFIG", raising=False)


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    "changes",
    [
        {"lora_rank": 8},
        {"lora_rank": 8, "lora_alpha": 16, "target_modules": "all-linear"},
        {"lora_rank": 8, "lora": {"rank": 0, "merge": False}},
        {"lora_rank": 8, "lora": {"rank": 8}},
        {"lora_rank": 8, "target_modules": ["q_proj", "down_proj"]},
        {"lora_rank": 8, "target_modules": ".*layers.*_proj", "exclude_modules": "lm_head"},
        {"lora_rank": 0, "lora": {"rank": 0, "merge": True}},  # no adapter, nothing to merge
    ],
    ids=str,
)
def test_an_adapter_beside_the_base_is_taken(tmp_path: Path, changes: dict[str, Any]) -> None:
    preflight.check(config_of(tmp_path, **{f"{MODEL}__{k}": v for k, v in changes.items()}))


@pytest.mark.usefixtures("on_cpu")
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lora": {"merge": True}}, r"lora\.merge=True: .*x \(W \+ AB\).* Set lora\.merge=False"),
        ({"lora_rank": 0, "lora": {"rank": 8}}, r"lora\.rank=8 with lora_rank=0: .*Set lora_rank"),
        ({"lora": {"rank": 16}}, r"lora\.rank=16 with lora_rank=8: "),
        ({"lora_adapter_path": "a/b"}, r"lora_adapter_path='a/b': .*Merge it into its base"),
        ({"lora_rank": 0, "lora_adapter_path": "a/b"}, "without lora_rank verl never loads it"),
        ({"target_parameters": ["w"]}, r"target_parameters=\['w'\]: .* Use target_modules"),
        ({"target_modules": ["q_proj", "lm_head"]}, "has an adapter on lm_head"),
        ({"target_modules": ["embed_tokens"]}, r"has an adapter on model\.embed_tokens"),
        ({"target_modules": ".*(_proj|_head)"}, "has an adapter on lm_head"),
    ],
    ids=str,
)
def test_other_ways_to_have_an_adapter_are_refused(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    changes = {"lora_rank": 8, **changes}
    with pytest.raises(ConfigError, match=message):
        preflight.check(config_of(tmp_path, **{f"{MODEL}__{k}": v for k, v in changes.items()}))


@pytest.mark.usefixtures("on_cpu")
def test_rollouts_in_flight_and_rules_that_nobody_could_see_are_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, **{f"{MODEL}__lora_rank": 8})
    spec = {"targets": ["linear"], "scale": 0.05, "direction": "backward"}
    config.actor_rollout_ref.rollout.custom = {"hetero_noise": {"rules": [spec]}}
    with pytest.raises(ConfigError, match=r"acts backward alone .*direction=both"):
        preflight.check(config)
    custom = {"hetero_noise": {"scale": 0.05}, "hetero_run": {"validation": "noisy"}}
    config.actor_rollout_ref.rollout.custom = custom
    preflight.check(config)
    config.trainer.v1.trainer_mode = "colocate_async"
    with pytest.raises(ConfigError, match=r"colocate_async with lora_rank=8.*trainer_mode=sync"):
        preflight.check(config)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        initializer_range=0.1,
        tie_word_embeddings=True,  # otherwise verl asks the process group who loads the weights
        attn_implementation="sdpa",
    )
    folder = tmp_path_factory.mktemp("base")
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def engine(base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """verl's engine with its own functions having built the model, before FSDP; adapters act."""
    import verl.workers.engine.fsdp.transformer_impl  # noqa: F401  # first, for the patches
    from transformers import AutoConfig

    from hetero_plugin.verl.engine import NoisyFSDPEngine

    monkeypatch.setattr(active, "_actors", [])
    made: Any = object.__new__(NoisyFSDPEngine)
    made.rank, made.device_mesh, made.use_remove_padding = 0, None, False
    made.ulysses_sequence_parallel_size = 1
    made.engine_config = SimpleNamespace(model_dtype="fp32", forward_only=False, strategy="fsdp2")
    made.model_config = SimpleNamespace(
        hf_config=AutoConfig.from_pretrained(base, attn_implementation="sdpa"),
        local_path=str(base),
        model_type="language_model",
        trust_remote_code=False,
        use_liger=False,
        use_fused_kernels=False,
        fused_kernel_options=None,
        enable_gradient_checkpointing=False,
        lora_rank=8,
        lora_alpha=16,
        target_modules="all-linear",
        target_parameters=None,
        exclude_modules=None,
    )
    spec = NoiseConfig.parse(SPEC)
    monkeypatch.setenv("HETERO_NOISE_CONFIG", spec.canonical)
    rollout = noisy(hetero_noise=SPEC, hetero_run={"actor_aqn": True})
    with active.run_noise(rollout, "worker actor_rollout rank 0", trains=True):
        made.module = made._build_lora_module(made._build_module())
    active.set_actor_step(3)
    generator = torch.Generator().manual_seed(2)
    for name, weight in made.module.named_parameters():
        if ".lora_B." in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.05
    made.module.eval()
    yield made


@pytest.mark.parametrize(
    ("given", "right"),
    [(None, True), ({"param_dtype": "fp16"}, True), ({"param_dtype": "fp32"}, False)],
    ids=str,
)
def test_a_matrix_unit_is_for_the_dtype_of_passes(base: Path, given: Any, right: bool) -> None:
    """Parameters are float32; FSDP's mixed precision says what is multiplied, bfloat16 unasked."""
    import verl.workers.engine.fsdp.transformer_impl  # noqa: F401  # first, for the patches

    from hetero_plugin.verl.engine import NoisyFSDPEngine

    made: Any = object.__new__(NoisyFSDPEngine)
    made.engine_config = SimpleNamespace(mixed_precision=given)
    unit = {"targets": ["linear"], "error": "accumulate", "options": {"hardware": "cdna2"}}
    model = clean_base(base).float()
    with made._as_in_passes():
        if right:
            wrap(model, unit, quiet=True)
            return
        with pytest.raises(ConfigError, match="no matrix unit for operands of float32"):
            wrap(model, unit, quiet=True)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS, use_cache=False).logits


def clean_base(base: Path) -> Any:
    return Qwen2ForCausalLM.from_pretrained(base, attn_implementation="sdpa").eval()


def test_the_sites_are_the_bases_and_no_adapter_is_one(engine: Any, base: Path) -> None:
    """By their canonical names, whatever PEFT calls the module: vLLM's are the same."""
    config = json.loads((base / "config.json").read_text())
    wanted = {s.name for s in sites_from_config(config) if s.kind in ("linear", "lm_head", "norm")}
    found = {chosen.site.name for chosen in engine.noise_state.selected}
    assert found == wanted and len(found) == 20
    layer = engine.module.base_model.model.model.layers[0].self_attn.q_proj
    assert type(layer).__module__ == "peft.tuners.lora.layer"
    assert type(layer.base_layer).__name__ == "NoisyLinear"
    record = attest(HFProbe(engine.noisy_model, forward=engine.module, engine="verl-fsdp2"))
    assert {row["name"] for row in record["sites"]} == wanted
    assert (record["seen"], record["of"], record["passed"]) == (20, 20, True), problems(
        record, engine.noise_state.config.fingerprint
    )


def test_the_error_is_on_the_base_and_the_adapters_product_is_clean(engine: Any) -> None:
    """y - y_base is x A B alpha / r, to the bit of the sum in float32, at every adapted layer."""
    seen: dict[str, list[torch.Tensor]] = {}
    modules = {
        name: module
        for name, module in engine.module.named_modules()
        if hasattr(module, "base_layer") and hasattr(module, "lora_A")
    }
    assert len(modules) == 14
    for name, module in modules.items():
        kept = seen.setdefault(name, [])
        module.base_layer.register_forward_hook(lambda m, x, y, kept=kept: kept.append(y.clone()))
        module.register_forward_hook(lambda m, x, y, kept=kept: kept.extend([x[0].clone(), y]))
    logits(engine.module)
    noisy_base = {name: kept[0] for name, kept in seen.items()}
    for name, (on_base, x, y) in seen.items():
        a, b = (getattr(modules[name], f"lora_{f}")["default"].weight for f in "AB")
        product = torch.nn.functional.linear(torch.nn.functional.linear(x, a), b) * 2.0
        assert torch.equal(y, on_base + product), name
        assert product.norm() > 0.05 * on_base.norm(), name
    for kept in seen.values():
        kept.clear()
    with disabled(engine.noisy_model):
        logits(engine.module)
    assert all(not torch.equal(kept[0], noisy_base[name]) for name, kept in seen.items())


def test_the_reference_policy_is_the_clean_base(engine: Any, base: Path) -> None:
    """verl's for a LoRA run is the actor without its adapter; here without error and AQN too."""
    before = logits(engine.module)
    with engine.disable_adapter():
        reference = logits(engine.module)
    clean = clean_base(base)
    assert torch.equal(reference, logits(clean))
    assert torch.equal(logits(engine.module), before), "noise and adapter are back"
    with engine.module.disable_adapter():
        bare = logits(engine.module)
    wrapped = wrap(clean_base(base), NoiseConfig.parse(SPEC), quiet=True)
    from hetero_plugin import state_of
    from hetero_plugin.aqn import AQNController

    state, config = state_of(wrapped), NoiseConfig.parse(SPEC)
    state.set_phase("train")
    state.set_step(3)
    assert config.aqn is not None
    AQNController(config.aqn, state.attach_aqn()).step(3)
    assert torch.equal(bare, logits(wrapped)), "the same addresses as without PEFT"
    assert not torch.equal(bare, reference) and not torch.equal(before, bare)


def test_a_clean_run_has_verls_reference(engine: Any) -> None:
    engine._noisy_model = None
    with engine.disable_adapter(), disabled(engine.module.base_model.model):
        inside = logits(engine.module)
    with engine.module.disable_adapter(), disabled(engine.module.base_model.model):
        assert torch.equal(inside, logits(engine.module))


# ---------------------------------------------------------------------- rollout


@pytest.fixture
def server() -> Any:
    pytest.importorskip("vllm")
    from hetero_plugin.verl.server import HeteroHttpServer

    made: Any = object.__new__(HeteroHttpServer)
    made.node_rank, made.replica_rank = 0, 1
    made._noise = RunNoise(NoiseConfig.parse("rmsnorm"), RunOptions())
    made.model_config = SimpleNamespace(lora_rank=8, lora={})
    return made


def answering(server: Any, *answers: Any) -> Any:
    async def collective_rpc(method: str, args: Any = (), kwargs: Any = None) -> list[Any]:
        assert method == "list_loras"
        return list(answers)

    server.engine = SimpleNamespace(collective_rpc=collective_rpc)
    return server


def test_a_worker_without_the_adapter_is_refused(server: Any) -> None:
    assert asyncio.run(answering(server, {123}, [123]).hetero_adapter()) is True
    for loaded in ([], {7}, None):
        with pytest.raises(ConfigError, match=r"rollout worker 1\.1 has no adapter 123"):
            asyncio.run(answering(server, {123}, loaded).hetero_adapter())
    server.model_config = SimpleNamespace(lora_rank=0, lora={})
    assert asyncio.run(answering(server).hetero_adapter()) is False


def test_the_rollout_is_attested_through_its_adapter(
    server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Any
) -> None:
    import hetero_plugin.vllm.probe as probe

    given: list[Any] = []

    async def attest_async(engine: Any, config: Any, *, adapter: Any = None) -> dict[str, Any]:
        given.append(adapter)
        record = {"seen": 5, "of": 5}
        return {**record, "signature": signature(record)}

    monkeypatch.setattr(probe, "attest_async", attest_async)
    monkeypatch.setattr(attestation, "nothing_to_see", lambda *_: False)
    monkeypatch.setattr(attestation, "problems", lambda *_: [])
    answering(server, {123})
    server.engine.vllm_config = SimpleNamespace(
        model_config=SimpleNamespace(hf_text_config=SimpleNamespace(to_dict=dict))
    )
    records = asyncio.run(server.hetero_attest())
    assert [one.lora_int_id for one in given] == [123] and records[0]["adapter"] == "123"
    assert records[0]["signature"] == signature(records[0]), "of all that it says"
    attestation.settle(
        [("rollout 0", records[0])], server._noise, when="end", step=2, folder=tmp_path
    )
    assert "rollout 0: 5/5 sites seen through the adapter" in capsys.readouterr().out
    server.model_config = SimpleNamespace(lora_rank=0, lora={})
    assert "adapter" not in asyncio.run(server.hetero_attest())[0] and given[1] is None


def test_each_sync_of_the_adapter_is_followed_by_a_look(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("vllm")
    from verl.workers.rollout.vllm_rollout.vllm_rollout import ServerAdapter

    from hetero_plugin.verl.rollout import HeteroServerAdapter

    calls: list[str] = []

    async def update(self: Any, weights: Any, global_steps: Any = None, **_: Any) -> None:
        calls.append("sync")

    async def moved(self: Any, step: int) -> None:
        calls.append(f"step {step}")

    async def has(answer: bool) -> bool:
        calls.append("look")
        return answer

    monkeypatch.setattr(ServerAdapter, "update_weights", update)
    monkeypatch.setattr(HeteroServerAdapter, "_move_noise", moved)
    monkeypatch.setattr(HeteroServerAdapter, "_ensure_server_handle", lambda self: True)
    client: Any = object.__new__(HeteroServerAdapter)
    client.replica_rank, client._noise = 0, RunNoise(NoiseConfig.parse("rmsnorm"), RunOptions())
    there = True
    client.server_handle = SimpleNamespace(
        hetero_adapter=SimpleNamespace(remote=lambda: has(there))
    )

    def sync(**how: Any) -> list[str]:
        calls.clear()
        asyncio.run(client.update_weights([], global_steps=0, **how))
        return list(calls)

    assert sync(peft_config={"r": 8}, base_sync_done=False) == ["sync", "step 0"]
    assert sync(peft_config={"r": 8}, base_sync_done=True) == ["sync", "look", "step 0"]
    assert sync(peft_config=None, base_sync_done=True) == ["sync", "step 0"]
    there = False
    with pytest.raises(ConfigError, match="was sent a LoRA adapter and serves none"):
        sync(peft_config={"r": 8}, base_sync_done=True)


def test_verl_finds_vllms_mapper_by_the_name_it_knows() -> None:
    pytest.importorskip("vllm")
    patches.install()
    from vllm.model_executor.models.utils import WeightsMapper

    mapper: Any = WeightsMapper(
        orig_to_new_prefix={"a.": "b."}, orig_to_new_stacked={".q_proj": (".qkv_proj", "q")}
    )
    assert mapper.get_unstacked_mapper()._map_name("a.q_proj.lora_A.weight") == (
        "b.q_proj.lora_A.weight"
    )
    old = ModuleType("vllm.model_executor.models.utils")
    old.WeightsMapper = type("WeightsMapper", (), {})  # type: ignore[attr-defined]
    patches.patch_weights_mapper(old)  # vLLM 0.24 stacks nothing there, and verl asks for nothing
    assert not hasattr(old.WeightsMapper, "get_unstacked_mapper")


def test_what_peft_targets() -> None:
    assert not lora._is_target("all-linear", "lm_head") and not lora._is_target(None, "lm_head")
    assert lora._is_target(["model.embed_tokens"], "model.embed_tokens")
    assert lora._is_target("lm_head", "lm_head") and not lora._is_target(["head"], "lm_head")

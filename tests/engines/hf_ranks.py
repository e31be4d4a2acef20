"""Ways to train on two ranks, and what each makes of the gradients of one global batch."""

from __future__ import annotations

import os
import traceback
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from hetero_plugin.hf import HeteroNoiseCallback, set_step, state_of, wrap
from tests.hf.conftest import tiny

SPEC = {"preset": "all-ops", "scale": 0.05, "direction": "forward"}
Gradients = dict[str, torch.Tensor]
MOODS = ("clean", "noisy", "scale 0", "disabled", "wrong phase")


@dataclass(frozen=True)
class Way:
    """How a model is trained."""

    shard: str
    """none, ddp, fsdp1, fsdp2, accelerate, accelerate-fsdp2 or trainer."""
    micro: int = 1
    """Micro-batches of a rank."""
    checkpointing: bool | None = None
    """Reentrant or not; None: none."""
    autocast: bool = False
    tied: bool = False
    lora: bool = False
    compiled: bool = False


WAYS = {
    "plain": Way("none", micro=8),
    "ddp": Way("ddp"),
    "ddp-reentrant-autocast": Way("ddp", checkpointing=True, autocast=True),
    "ddp-lora": Way("ddp", micro=8, lora=True),
    "ddp-compiled": Way("ddp", compiled=True),
    "fsdp2": Way("fsdp2"),
    "fsdp2-tied-8-checkpointed": Way("fsdp2", micro=8, checkpointing=False, tied=True),
    "fsdp2-lora-autocast": Way("fsdp2", lora=True, autocast=True),
    "fsdp1": Way("fsdp1"),
    "fsdp1-8-checkpointed": Way("fsdp1", micro=8, checkpointing=False),
    "accelerate-8": Way("accelerate", micro=8),
    "accelerate-fsdp2": Way("accelerate-fsdp2", tied=True),
    "trainer": Way("trainer", micro=8),
}


def batch() -> torch.Tensor:
    """int64 [16, 12]: what all ranks and micro-batches see together."""
    return torch.randint(1, 272, (16, 12), generator=torch.Generator().manual_seed(3))


def loss_of(model: Any, ids: torch.Tensor) -> torch.Tensor:
    logits = model(ids).logits.float()
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def build(way: Way, mood: str) -> Any:
    model: Any = tiny(tie_word_embeddings=way.tied)
    if way.lora:
        from peft import LoraConfig, get_peft_model

        torch.manual_seed(2)
        settings = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        model = get_peft_model(model, settings)
    if mood != "clean":
        changes: dict[str, Any] = {"scale 0": {"scale": 0.0}, "wrong phase": {"phase": "rollout"}}
        spec = {**SPEC, "direction": "forward" if mood == "noisy" else "both"}
        wrap(
            model,
            {**spec, **changes.get(mood, {})},
            quiet=True,
            adapters="both" if way.lora else "base",
        )
        state_of(model).set_phase("train")
        state_of(model).set_enabled(mood != "disabled")
    model.train()
    if way.checkpointing is not None:
        model.gradient_checkpointing_enable({"use_reentrant": way.checkpointing})
        model.enable_input_require_grads()
    return model


def alone(way: Way, mood: str, folder: Path) -> Gradients:
    """One process, the whole batch in as many micro-batches as a rank has."""
    if way.shard == "trainer":
        return trained(way, mood, folder, ranks=1)
    model = build(way, mood)
    for ids in batch().chunk(way.micro):
        with torch.autocast("cpu", torch.bfloat16) if way.autocast else nullcontext():
            (loss_of(model, ids) / way.micro).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def trained(way: Way, mood: str, folder: Path, ranks: int) -> Gradients:
    """transformers' Trainer: how far two steps moved the weights."""
    from transformers import Trainer, TrainingArguments

    model = build(way, mood)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    data: Any = [{"input_ids": row, "labels": row} for row in batch()]
    arguments = TrainingArguments(
        output_dir=str(folder / "trainer"),
        max_steps=2,
        per_device_train_batch_size=16 // ranks // way.micro,
        gradient_accumulation_steps=way.micro,
        learning_rate=0.1,
        lr_scheduler_type="constant",
        optim="sgd",
        max_grad_norm=0.0,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        ddp_backend="gloo" if ranks > 1 else None,
    )
    # The callback switches the noise on; `disabled` is for those who train without it.
    callbacks: list[Any] = [] if mood in ("clean", "disabled") else [HeteroNoiseCallback()]
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=callbacks)
    assert trainer.args.world_size == ranks
    trainer.train()
    if callbacks:
        assert state_of(model).step == 1
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def sharded(way: Way, model: Any) -> tuple[Any, Any]:
    """The model as that way runs it, and accelerate's Accelerator if there is one."""
    if way.shard == "ddp":
        run = torch.nn.parallel.DistributedDataParallel(model)
        return (torch.compile(run, backend="aot_eager") if way.compiled else run), None
    if way.shard == "fsdp2":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        mesh = init_device_mesh("cpu", (2,))
        base = model.get_base_model() if way.lora else model
        for layer in base.model.layers:
            fully_shard(layer, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model, None
    if way.shard == "fsdp1":
        from functools import partial

        from torch.distributed.fsdp import FullyShardedDataParallel
        from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

        layers = {type(model.model.layers[0])}
        return FullyShardedDataParallel(
            model,
            use_orig_params=True,
            device_id=torch.device("cpu"),
            auto_wrap_policy=partial(transformer_auto_wrap_policy, transformer_layer_cls=layers),
        ), None
    if way.shard.startswith("accelerate"):
        from accelerate import Accelerator, FullyShardedDataParallelPlugin

        plugin = None
        if way.shard == "accelerate-fsdp2":
            plugin = FullyShardedDataParallelPlugin(
                fsdp_version=2,
                auto_wrap_policy="transformer_based_wrap",
                transformer_cls_names_to_wrap=[type(model.model.layers[0]).__name__],
            )
        accelerator = Accelerator(
            cpu=True, gradient_accumulation_steps=way.micro, fsdp_plugin=plugin
        )
        if plugin is not None:  # accelerate 1.15 shards on accelerators alone unless it is told to
            from accelerate.utils import DistributedType

            accelerator.state.distributed_type = DistributedType.FSDP
            accelerator.state.fsdp_plugin = plugin
        assert accelerator.num_processes == 2
        optimizer = torch.optim.SGD(model.parameters())
        return accelerator.prepare(model, optimizer)[0], accelerator
    return model, None


def on_two_ranks(way: Way, mood: str, folder: Path, rank: int, keep: list[Any]) -> Gradients:
    if way.shard == "trainer":
        return trained(way, mood, folder, ranks=2)
    model = build(way, mood)
    run, accelerator = sharded(way, model)
    if way.shard == "accelerate-fsdp2":
        model = run
    keep.append((run, accelerator))
    chunks = batch().chunk(2)[rank].chunk(way.micro)
    for i, ids in enumerate(chunks):
        last = i == len(chunks) - 1
        with ExitStack() as stack:
            if way.autocast:
                stack.enter_context(torch.autocast("cpu", torch.bfloat16))
            if accelerator is not None:
                stack.enter_context(accelerator.accumulate(run))
                accelerator.backward(loss_of(run, ids))
                continue
            if way.shard in ("ddp", "fsdp1") and not last:
                stack.enter_context(run.no_sync())
            (loss_of(run, ids) / way.micro).backward()
    if way.shard == "fsdp1":
        held, whole = (sum(p.numel() for p in m.parameters()) for m in (run, tiny()))
        assert held < 0.6 * whole, "this rank's half of the parameters"
        with run.summon_full_params(run, with_grads=True):
            found = {n: p.grad.clone() for n, p in run.named_parameters() if p.grad is not None}
        return {name.replace("_fsdp_wrapped_module.", ""): g for name, g in found.items()}
    found = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        if grad is None:
            continue
        if way.shard == "none":
            dist.all_reduce(grad)
            grad = grad / 2
        assert hasattr(grad, "full_tensor") == way.shard.endswith("fsdp2"), (
            "as it should be sharded"
        )
        found[name] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
    return found


ATTESTED = {
    "forward": {"direction": "both"},
    "gradients alone": {"direction": "backward"},
    "offloaded": {"direction": "both"},
    "a site lost on rank 1": {"direction": "both"},
}
LOST = "model.layers.1.mlp.down_proj"


def attested(case: str, rank: int, keep: list[Any]) -> str:
    """What each rank's attestation of an FSDP2 model refuses for, one line a rank."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import CPUOffloadPolicy, OffloadPolicy, fully_shard

    from hetero_plugin.attestation import attest, problems
    from hetero_plugin.hf.probe import HFProbe

    model = wrap(tiny(), {**SPEC, **ATTESTED[case]}, quiet=True)
    offloaded = case == "offloaded"
    policy = CPUOffloadPolicy(pin_memory=False) if offloaded else OffloadPolicy()
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, offload_policy=policy)
    fully_shard(model, mesh=mesh, offload_policy=policy)
    if case == "a site lost on rank 1" and rank == 1:
        layer = model.get_submodule(LOST)
        layer.forward = lambda x: torch.nn.functional.linear(x, layer.weight)
    keep.append(model)
    record = attest(HFProbe(model, engine="fsdp2", rank=rank))
    assert record["processes"][0]["rank"] == rank
    found: list[Any] = [None, None]
    dist.all_gather_object(found, "; ".join(problems(record)))
    return "\n".join(f"rank {at}: {words}" for at, words in enumerate(found))


STEP = 3
FORMATS: dict[str, dict[str, Any]] = {
    "weight": {"error": "mxfp4", "point": "weight", "ste": "clipped"},
    "input": {
        "error": "nvfp4",
        "point": "input",
        "ste": "clipped",
        "gradient_rounding": "stochastic",
        "options": {"tensor_scale": 400.0},  # too large, so that inputs saturate
    },
}
"""Operands of linear layers in formats, forward and backward, with every key of their gradients."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def formats(**changes: Any) -> dict[str, Any]:
    """The specification; changes are of rules that have the key."""
    common = {"targets": ["linear"], "exclude": ["lm_head"], "direction": "both"}
    rules = [
        {**common, **rule, **{key: value for key, value in changes.items() if key in rule}}
        for rule in FORMATS.values()
    ]
    return {"rules": rules, "seed": 4}


def padded(rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int64 [8, 12] and its mask: rows of several lengths, on rank 0 padded on the left."""
    ids = batch().chunk(2)[rank].clone()
    places, lengths = torch.arange(12), torch.tensor([12, 7, 9, 12, 5, 11, 8, 10])[:, None]
    mask = (places >= 12 - lengths) if rank == 0 else (places < lengths)
    ids[~mask] = 0
    return ids, mask.long()


def backward_of(run: Any, rank: int) -> None:
    """The gradients of a rank's part of the batch, added to what there is."""
    ids, mask = padded(rank)
    logits = run(ids, attention_mask=mask).logits.float()
    labels = torch.where((mask[:, 1:] & mask[:, :-1]) == 1, ids[:, 1:], -100)
    torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten()).backward()


def formatted(dtype: str, rank: int, keep: list[Any]) -> Gradients:
    """The gradients of both ranks' batches together, of a model that FSDP2 has sharded."""
    model = wrap(tiny(DTYPES[dtype]), formats(), quiet=True).train()
    set_step(model, STEP)
    run, _ = sharded(Way("fsdp2"), model)
    keep.append(run)
    backward_of(run, rank)
    return {name: p.grad.full_tensor() for name, p in run.named_parameters()}


def formatted_alone(dtype: str, **changes: Any) -> Gradients:
    """The same of one model in one process, rank by rank; changes as for `formats`."""
    halves = []
    for rank in (0, 1):
        model: Any = wrap(tiny(DTYPES[dtype]), formats(**changes), quiet=True).train()
        set_step(model, STEP)
        backward_of(model, rank)
        halves.append({name: p.grad for name, p in model.named_parameters()})
    return {name: (grad + halves[1][name]) / 2 for name, grad in halves[0].items()}


def worker(rank: int, port: int, folder: str) -> None:
    """Every way in every mood, in one pair of processes; rank 0 writes the gradients."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
        OMP_NUM_THREADS="1",
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE="2",
        LOCAL_WORLD_SIZE="2",
        ACCELERATE_USE_CPU="true",
    )
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    # Nothing is torn down: DDP's reducer, freed after its gloo group, was seen to wait for ever.
    keep: list[Any] = []
    results: dict[tuple[str, str], Gradients | str] = {}
    try:
        for name, way in WAYS.items():
            for mood in MOODS:
                if way.compiled and mood not in ("clean", "noisy"):
                    continue  # compiled code keeps the operators, whose nodes reorder sums
                try:
                    results[name, mood] = on_two_ranks(way, mood, Path(folder), rank, keep)
                except Exception:
                    results[name, mood] = traceback.format_exc()
                dist.barrier()
        for case in ATTESTED:
            try:
                results["attest", case] = attested(case, rank, keep)
            except Exception:
                results["attest", case] = traceback.format_exc()
            dist.barrier()
        for dtype in DTYPES:
            try:
                results["formats", dtype] = formatted(dtype, rank, keep)
            except Exception:
                results["formats", dtype] = traceback.format_exc()
            dist.barrier()
        if rank == 0:
            torch.save(results, Path(folder) / "gradients.pt")
        dist.barrier()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

"""Faults that leave a trace in numbers: tried on wrapped models, shown to have no effect."""

from __future__ import annotations

import pickle
import tempfile
from itertools import pairwise

import torch

from hetero_plugin import AQN, AQNConfig, NoiseConfig, disabled, phase, set_step, state_of, wrap
from tests.faults.models import IDS, gradients, logits, tiny
from tests.faults.registry import fault, noticed

CONSTANT = AQNConfig(schedule="constant", sigma_start=0.02)


@fault(
    "a site, when parameters are replaced",
    "`load_state_dict(assign=True)` on a wrapped model",
    "the output is the noisy one it was",
    by="values",
    engine="hf",
)
def load_state_dict_with_assign() -> str:
    model = wrap(tiny(), "all-ops")
    noisy = logits(model)
    model.load_state_dict({k: v.clone() for k, v in tiny().state_dict().items()}, assign=True)
    same = torch.equal(logits(model), noisy) and not torch.equal(noisy, logits(tiny()))
    return noticed(same, "the noisy output is the same before and after")


@fault(
    "σ: noise on noise",
    "AQN's step set three times, as by three weight syncs",
    "the offset is that of one",
    by="values",
    engine="hf",
)
def aqn_accumulated_over_syncs() -> str:
    model = tiny()
    aqn = AQN(model, CONSTANT)
    aqn.step(2)
    once = logits(model)
    for _ in range(3):
        model.load_state_dict(tiny().state_dict())
        aqn.step(2)
    return noticed(torch.equal(logits(model), once), "the output of three syncs is that of one")


@fault(
    "AQN after a weight sync",
    "`load_state_dict` while an offset is in force",
    "the output is the noisy one it was",
    by="values",
    engine="hf",
)
def aqn_lost_by_a_sync() -> str:
    model = tiny()
    AQN(model, CONSTANT).step(2)
    noisy = logits(model)
    model.load_state_dict(tiny().state_dict())
    kept = torch.equal(logits(model), noisy) and not torch.equal(noisy, logits(tiny()))
    return noticed(kept, "AQN's offset survives the sync")


@fault(
    "σ = 5e-4, which added to a bfloat16 weight rounds to nothing",
    "AQN at 5e-4 on a bfloat16 model",
    "every weight of 0.3 and more would be unchanged, the output changes",
    by="values",
    engine="hf",
)
def bf16_offset_swallowed() -> str:
    model = tiny(torch.bfloat16)
    clean = logits(model)
    aqn = AQN(model, AQNConfig(schedule="constant", sigma_start=5e-4))
    aqn.step(0)
    weight = model.model.norm.weight
    offset = state_of(model).aqn.view("model.norm")  # type: ignore[union-attr]
    large = weight.float() > 1.0
    swallowed = torch.equal((weight + offset.to(weight.dtype))[large], weight[large])
    changed = not torch.equal(logits(model), clean)
    return noticed(swallowed and changed, "swallowed in the weight, real in the offset")


@fault(
    "the clean weights",
    "a wrapped model under AQN is saved and loaded",
    "what was saved is the clean model, bit for bit",
    by="values",
    engine="hf",
)
def noisy_weight_saved() -> str:
    from transformers import AutoModelForCausalLM

    model = tiny()
    clean = logits(model)
    AQN(model, CONSTANT).step(2)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        again = AutoModelForCausalLM.from_pretrained(folder).eval()
    right = torch.equal(logits(again), clean) and not torch.equal(logits(model), clean)
    return noticed(right, "the saved model is the clean one")


@fault(
    "the clean weights",
    "the state dict of a wrapped model under AQN, as a weight sync sends it",
    "names and values are the clean model's",
    by="values",
    engine="hf",
)
def noisy_weight_synced() -> str:
    model = wrap(tiny(), NoiseConfig(preset="all", aqn=CONSTANT))
    AQN(model).step(1)
    logits(model)
    sent, clean = model.state_dict(), tiny().state_dict()
    right = list(sent) == list(clean) and all(torch.equal(sent[k], clean[k]) for k in clean)
    return noticed(right, "what is sent is clean")


@fault(
    "the clean norms after an error",
    "a rollout under AQN that raises",
    "the offset is off and the output clean",
    by="values",
    engine="hf",
)
def aqn_left_on_by_an_exception() -> str:
    model = tiny()
    clean = logits(model)
    aqn = AQN(model, CONSTANT)
    try:
        with aqn.at(1):
            raise RuntimeError("the rollout broke")
    except RuntimeError:
        pass
    return noticed(torch.equal(logits(model), clean) and aqn.sigma == 0.0, "clean again")


@fault(
    "the noise after a clean validation",
    "an exception inside `disabled`",
    "the noise is back",
    by="values",
    engine="hf",
)
def noise_lost_after_a_clean_block() -> str:
    model = wrap(tiny(), NoiseConfig(preset="all", aqn=CONSTANT))
    AQN(model).step(1)
    noisy = logits(model)
    try:
        with disabled(model), disabled(model):
            raise RuntimeError("validation broke")
    except RuntimeError:
        pass
    return noticed(torch.equal(logits(model), noisy), "noise and offset are back")


@fault(
    "one of two specifications",
    "two models in one process, their passes and settings interleaved",
    "each is what it is alone",
    by="values",
    engine="hf",
)
def two_models_with_two_specifications() -> str:
    alone = [logits(wrap(tiny(), name)) for name in ("rmsnorm", "linear")]
    one, two = wrap(tiny(), "rmsnorm"), wrap(tiny(), "linear")
    set_step(two, 5)
    first = logits(one)
    state_of(one).set_enabled(False)
    set_step(two, 0)
    second = logits(two)
    right = torch.equal(first, alone[0]) and torch.equal(second, alone[1])
    return noticed(right, "each model has its own noise")


@fault(
    "independence of ranks: the same gradient error everywhere",
    "two ranks of one seed with different micro-batches",
    "their errors on a weight's gradient differ",
    by="values",
    engine="hf",
)
def seed_equal_on_ranks_that_should_differ() -> str:
    spec = NoiseConfig(scale=0.2, targets=["lm_head"], direction="backward")

    def error(ids: torch.Tensor) -> torch.Tensor:
        clean = gradients(tiny(), ids)["lm_head.weight"]
        noisy = gradients(wrap(tiny(), spec), ids)["lm_head.weight"]
        return torch.where(clean != 0, (noisy - clean) / clean, 0.0).flatten()

    one, two = error(IDS[:1]), error(IDS[1:2])
    cosine = float((one * two).sum() / (one.norm() * two.norm()))
    again = torch.equal(one, error(IDS[:1]))
    return noticed(abs(cosine) < 0.1 and float(one.norm()) > 0 and again, f"cosine {cosine:.3f}")


@fault(
    "the draw: another one after resuming",
    "training is resumed at step 3 in a fresh process",
    "the step alone brings back the draw of the uninterrupted run",
    by="values",
    engine="hf",
)
def resumption_at_another_step() -> str:
    model = wrap(tiny(), "linear")
    outputs = []
    for step in range(4):
        set_step(model, step)
        outputs.append(logits(model))
    resumed = wrap(tiny(), "linear")
    set_step(resumed, 3)
    right = torch.equal(logits(resumed), outputs[3]) and not torch.equal(outputs[0], outputs[3])
    return noticed(right, "step 3 of a fresh model is step 3")


@fault(
    "one noise for forward and recomputation",
    "activation checkpointing, another micro-batch in between",
    "gradients are those without it",
    by="values",
    engine="hf",
)
def recomputed_with_other_noise() -> str:
    plain = gradients(wrap(tiny(), "all-ops").train(), IDS)
    model = wrap(tiny(), "all-ops").train()
    model.gradient_checkpointing_enable()
    loss = model(IDS, labels=IDS).loss
    model(IDS.flip(0), labels=IDS.flip(0))
    model.zero_grad(set_to_none=True)
    loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    right = all(torch.allclose(plain[k], found[k], rtol=0, atol=1e-6) for k in plain)
    return noticed(right and bool(plain), "the same gradients")


@fault(
    "noise in a process that a model is sent to",
    "a wrapped model is pickled, as a spawned worker gets it",
    "it is as noisy there, and can be switched there",
    by="values",
    engine="hf",
)
def model_sent_to_another_process() -> str:
    model = wrap(tiny(), "all-ops")
    twin = pickle.loads(pickle.dumps(model))
    same = torch.equal(logits(twin), logits(model))
    with disabled(twin):
        off = torch.equal(logits(twin), logits(tiny()))
    return noticed(same and off, "the copy has the noise and its own switch")


@fault(
    "the dtype: a cast could cast scales and keys too",
    "`model.to(bfloat16)` after `wrap`",
    "the output is that of a model wrapped in bfloat16",
    by="values",
    engine="hf",
)
def model_cast_after_wrap() -> str:
    model = wrap(tiny(), "all-ops").to(torch.bfloat16)
    other = wrap(tiny(torch.bfloat16), "all-ops")
    same = torch.equal(logits(model), logits(other)) and state_of(model).scales.dtype.itemsize == 4
    return noticed(same, "bit for bit")


@fault(
    "validation's noise: training's would be left on",
    "rules for training only, and a pass in the phase `rollout`",
    "that pass is the clean model's",
    by="values",
    engine="hf",
)
def training_noise_in_rollout() -> str:
    model = wrap(tiny(), NoiseConfig(preset="all", phase="train"))
    with phase(model, "rollout"):
        clean = torch.equal(logits(model), logits(tiny()))
    with phase(model, "train"):
        noisy = not torch.equal(logits(model), logits(tiny()))
    return noticed(clean and noisy, "clean in one phase, noisy in the other")


@fault(
    "all noise: the compiled graph is the clean model's",
    "`torch.compile`, one run, then `wrap`",
    "the compiled model is compiled anew, and noisy",
    by="values",
    engine="hf compiled",
)
def torch_compile_before_wrap() -> str:
    torch._dynamo.reset()
    model = tiny()
    compiled = torch.compile(model, backend="aot_eager")
    clean = logits(compiled)
    wrap(model, "all-ops")
    noisy, eager = logits(compiled), logits(model)
    right = torch.allclose(noisy, eager, rtol=0, atol=2e-5)
    return noticed(right and not torch.allclose(noisy, clean, atol=1e-3), "noisy after all")


@fault(
    "a change of scale: the graph has the old one",
    "scale, step and switch changed after compilation",
    "compiled and eager model agree after each",
    by="values",
    engine="hf compiled",
)
def scale_frozen_in_a_graph() -> str:
    torch._dynamo.reset()
    model = wrap(tiny(), "all-ops")
    compiled = torch.compile(model, backend="aot_eager")
    outputs = []
    state = state_of(model)
    for change in (
        lambda: None,
        lambda: state.set_scale(0.2),
        lambda: state.set_step(7),
        lambda: state.set_enabled(False),
    ):
        change()
        outputs.append(logits(compiled))
        if not torch.allclose(outputs[-1], logits(model), rtol=0, atol=2e-5):
            return noticed(False, "compiled code follows every change")
    different = all(not torch.equal(a, b) for a, b in pairwise(outputs))
    return noticed(different, "compiled code follows every change")

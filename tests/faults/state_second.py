"""Copies, gates, tables and the operator: the second round."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import torch

from hetero_plugin import AQN, AQNConfig, ConfigError, NoiseConfig, disabled, wrap
from hetero_plugin.hf import set_step, state_of, update
from hetero_plugin.operator import Chain, UnsupportedTensor
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from tests.faults.models import IDS, gradients, logits, said, tiny
from tests.faults.registry import fault, noticed, refused

CONFIG = AQNConfig(schedule="constant", sigma_start=0.2)


def off_and_on(model: Any) -> AQN:
    """AQN of a model that has run with an offset and without, and ends without."""
    aqn = AQN(model, CONFIG)
    aqn.step(0)
    logits(model)
    aqn.off()
    logits(model)
    return aqn


@fault(
    "AQN in a model that was sent: what is remembered of the offsets is the sender's",
    "`torch.save` and `torch.load` inside `inference_mode`, then one norm's offset alone is set",
    "the loaded model has the output of one that was made anew",
    by="values",
    engine="hf",
)
def loaded_copy_remembers_no_offset() -> str:
    model = tiny()
    off_and_on(model)
    buffer = io.BytesIO()
    torch.save(model, buffer)
    with torch.inference_mode():
        twin = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)
    found = []
    for one in (twin, model):
        offsets = state_of(one).aqn
        assert offsets is not None
        offsets.only(["model.layers.0.post_attention_layernorm"], 0.4)
        found.append(logits(one))
    right = torch.equal(*found) and not torch.equal(found[0], logits(tiny()))
    return noticed(right, "the same noise in both")


@fault(
    "the step of a copy that was made in `inference_mode`",
    "two deep copies in a row, then `set_step` and `set_scale`",
    "both take the settings, and have the noise of the original set likewise",
    by="values",
    engine="hf",
)
def step_of_an_inference_copy() -> str:
    model = wrap(tiny(), NoiseConfig(preset="linear"), quiet=True)
    with torch.inference_mode():
        twin = copy.deepcopy(copy.deepcopy(model))
    for one in (model, twin):
        set_step(one, 11)
        state_of(one).set_scale(0.2, kind="linear")
    same = torch.equal(logits(model), logits(twin))
    return noticed(same, "steps and scales are set")


@fault(
    "all noise of a copy",
    "a model is pickled inside `disabled`",
    "one line: the copy is switched off, as what was copied; `set_enabled(True)` makes it noisy",
    by="warning",
    engine="hf",
)
def pickled_inside_disabled() -> str:
    model = wrap(tiny(), NoiseConfig(preset="linear"), quiet=True)
    noisy = logits(model)
    with said() as lines, disabled(model):
        twin = pickle.loads(pickle.dumps(model))
    clean = torch.equal(logits(twin), logits(tiny()))
    state_of(twin).set_enabled(True)
    back = torch.equal(logits(twin), noisy)
    told = [line for line in lines if "copied inside `disabled`" in line]
    return noticed(clean and back and len(told) == 1, told[0] if told else "not a word")


@fault(
    "off: a setting made inside `disabled` switches on",
    "`set_enabled(True)`, `reset_scales` and `update` inside `disabled`",
    "clean inside, the new spec's noise afterwards",
    by="values",
    engine="hf",
)
def switched_on_inside_disabled() -> str:
    model = wrap(tiny(), NoiseConfig(preset="linear"), quiet=True)
    clean, inside = logits(tiny()), []
    with disabled(model):
        state_of(model).set_enabled(True)
        inside.append(logits(model))
        update(model, NoiseConfig(preset="rmsnorm"))
        state_of(model).reset_scales()
        inside.append(logits(model))
    right = all(torch.equal(one, clean) for one in inside)
    right &= torch.equal(logits(model), logits(wrap(tiny(), "rmsnorm", quiet=True)))
    return noticed(right, "off inside, on after")


@fault(
    "AQN of the outer block",
    "`AQN.at` inside `AQN.at` ends by an exception, inside `disabled`",
    "the outer step's noise is in force again",
    by="values",
    engine="hf",
)
def inner_at_raises_under_disabled() -> str:
    model = tiny()
    aqn = off_and_on(model)
    with aqn.at(3):
        first = logits(model)
        try:
            with disabled(model), aqn.at(4):
                raise KeyError
        except KeyError:
            pass
        again = logits(model)
    right = torch.equal(first, again) and torch.equal(logits(model), logits(tiny()))
    return noticed(right, "the outer step's, then none")


@fault(
    "AQN, by a change that was refused",
    "`update` with a target that the model lacks, under `AQN.step` and a scale that was set",
    "the old noise, bit for bit",
    by="values",
    engine="hf",
)
def refused_update_under_aqn() -> str:
    model = wrap(tiny(), NoiseConfig(preset="linear", aqn=CONFIG), quiet=True)
    AQN(model).step(2)
    state_of(model).set_scale(0.2, kind="linear")
    before = logits(model)
    try:
        update(model, NoiseConfig(scale=0.1, targets=["*.nowhere"]))
    except ConfigError:
        return noticed(torch.equal(logits(model), before), "as before")
    return noticed(False, "the update is refused")


@fault(
    "gradients' error under torch.func, where no tensor says that it needs a gradient",
    "`vmap` over stacked weights of a model with error on the gradients of norms",
    "UnsupportedTensor",
    by="error",
    engine="hf",
)
def gradient_error_under_vmap() -> str:
    model = wrap(tiny(), NoiseConfig(preset="rmsnorm", direction="backward"), quiet=True)
    stacked = {name: torch.stack([p, p]) for name, p in model.named_parameters()}

    def call(parameters: Any) -> Any:
        return torch.func.functional_call(model, parameters, (IDS,), {"use_cache": False}).logits

    return refused(lambda: torch.func.vmap(call)(stacked), "torch.func", kind=UnsupportedTensor)


@fault(
    "float64's digits: AQN's norm is computed in float32",
    "AQN on a model in float64",
    "UnsupportedTensor, with the norm",
    by="error",
    engine="hf",
)
def aqn_in_float64() -> str:
    model = tiny(torch.float64)
    aqn = AQN(model, CONFIG)
    aqn.step(0)
    words = "input_layernorm", "float64"
    return refused(lambda: logits(model), *words, kind=UnsupportedTensor)


@fault(
    "independence of the number of ranks",
    "`deadzone` on the input of a layer of which a rank has half the columns",
    "ConfigError, with both numbers",
    by="error",
    engine="core",
)
def deadzone_on_half_a_row() -> str:
    site = Site("model.layers.0.mlp.down_proj", "linear", 0, 64, 160)
    spec = NoiseConfig(scale=0.1, targets=["linear"], error="deadzone", point="input")
    state = NoiseState(spec, [site])
    half = [(site.name, 80, 80)]
    return refused(lambda: Chain.of(state, "input", half), "80 of 160", kind=ConfigError)


@fault(
    "error of one expert's half: the largest of a part of a row",
    "`deadzone` on a row that comes in two pieces",
    "ConfigError",
    by="error",
    engine="core",
)
def deadzone_on_a_row_in_pieces() -> str:
    site = Site("model.layers.0.mlp.experts.gate_up_proj", "linear", 0, 64, 16)
    state = NoiseState(NoiseConfig(scale=0.1, targets=["linear"], error="deadzone"), [site])
    parts = [(site.name, 32, 0), (site.name, 32, 32)]
    return refused(lambda: Chain.of(state, "output", parts), "in 2 pieces", kind=ConfigError)


@fault(
    "all noise: a scale that float32 takes for 0",
    "`scale: 1e-50`, which float64 holds",
    "ConfigError when the table is made",
    by="error",
    engine="core",
)
def scale_that_underflows() -> str:
    site = Site("model.layers.0.mlp.down_proj", "linear", 0, 64, 160)
    spec = NoiseConfig(scale=1e-50, targets=["linear"])
    return refused(lambda: NoiseState(spec, [site]), "rules[0].scale", "is 0 in", kind=ConfigError)


@fault(
    "AQN's size: σ infinite in float32",
    "`epoch_ranges: [[1e39, 1e-3]]`",
    "ConfigError, with the place",
    by="error",
    engine="core",
)
def sigma_that_overflows() -> str:
    return refused(
        lambda: AQNConfig(schedule="epoch", epoch_ranges=[(1e39, 1e-3)], steps_per_epoch=12),
        "epoch_ranges[0][0]",
        "infinite in float32",
        kind=ConfigError,
    )


@fault(
    "two steps' draws: the address has 64 bits",
    "`set_step(2**64 + 3)`, which would be step 3",
    "ConfigError",
    by="error",
    engine="core",
)
def step_beyond_the_address() -> str:
    site = Site("model.layers.0.mlp.down_proj", "linear", 0, 64, 160)
    state = NoiseState(NoiseConfig(scale=0.1, targets=["linear"]), [site])
    return refused(lambda: state.set_step(2**64 + 3), "step: got", kind=ConfigError)


@fault(
    "the gradients",
    "`truncation` at 0.05 with `direction: both`, said so",
    "one warning with numbers; left out, gradients stay what they are",
    by="warning",
    engine="hf",
)
def absolute_error_on_gradients() -> str:
    rule = {"scale": 0.05, "targets": ["linear"], "error": "truncation"}
    with said() as lines:
        wrap(tiny(), NoiseConfig(**rule, direction="both"))
    found = gradients(wrap(tiny(), NoiseConfig(**rule), quiet=True), IDS)
    clean = gradients(tiny(), IDS)
    a, b = (torch.cat([g.flatten() for g in one.values()]) for one in (found, clean))
    kept = float(torch.nn.functional.cosine_similarity(a, b, dim=0)) > 0.9
    warned = [line for line in lines if "on gradients as well" in line and "820" in line]
    return noticed(kept and len(warned) == 1, "; ".join(warned))

"""Faults of a Hugging Face model's rows, sites and names: whose they are, and whether they ran."""

from __future__ import annotations

import functools
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Qwen2ForSequenceClassification, Qwen2ForTokenClassification

from hetero_plugin import NoiseConfig, wrap
from hetero_plugin.config import ConfigError
from hetero_plugin.hf.context import MissingRows
from hetero_plugin.hf.probe import HFProbe
from tests.faults.models import IDS, UP, attested, logits, tiny
from tests.faults.registry import fault, noticed, refused

DECODER = NoiseConfig(scale=0.1, targets=["linear", "norm", "activation"], exclude=["lm_head"])


def far(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item()


@fault(
    "rows' identity: positions counted over padding",
    "padding on both sides of a row, under a float mask",
    "its tokens have the noise that they have alone",
    by="values",
    engine="hf",
)
def padding_on_both_sides() -> str:
    model = wrap(tiny(), "all")
    row, pad = IDS[:1, :8], torch.zeros(1, 4, dtype=torch.long)
    mask = torch.ones(1, 16)
    mask[:, :4] = mask[:, 12:] = 0
    both = logits(model, torch.cat([pad, row, pad], 1), attention_mask=mask)
    gap = far(both[:, 4:12], logits(model, row))
    return noticed(gap < 1e-4, f"largest difference {gap:.1e}")


@fault(
    "rows' identity: positions counted over padding",
    "beam search over a left-padded batch",
    "each prompt's beams are those that it has alone",
    by="values",
    engine="hf",
)
def padding_under_beam_search() -> str:
    model = wrap(tiny(), "all")
    settings: dict[str, Any] = dict(
        max_new_tokens=5, num_beams=3, do_sample=False, pad_token_id=0, eos_token_id=None
    )
    ids, mask = torch.zeros(2, 9, dtype=torch.long), torch.zeros(2, 9, dtype=torch.long)
    for i, length in enumerate((3, 9)):
        ids[i, 9 - length :], mask[i, 9 - length :] = IDS[i, :length], 1
    both = model.generate(ids, attention_mask=mask, **settings)[:, 9:]
    alone = model.generate(
        IDS[:1, :3], attention_mask=torch.ones(1, 3, dtype=torch.long), **settings
    )[:, 3:]
    return noticed(torch.equal(both[:1], alone), "the same five tokens")


@fault(
    "one site, in the second pass",
    "a library patches an activation between two passes",
    "MissingRows with the site and the function",
    by="error",
    engine="hf",
)
def forward_patched_between_passes() -> str:
    model = wrap(tiny(), "all-ops")
    logits(model)
    act = model.model.layers[0].mlp.act_fn
    act.forward = functools.partial(nn.functional.silu)
    return refused(lambda: logits(model), "mlp.act_fn", "silu", kind=MissingRows)


@fault(
    "one site, whose forward never reaches the noisy one",
    "a method of another class, bound to a norm, in a model that is attested",
    "refused, with the site",
    by="attestation",
    engine="hf",
)
def method_bound_to_a_norm() -> str:
    probe = HFProbe.wrapping(tiny(), "all")
    norm = probe.model.model.layers[1].input_layernorm

    def forward(self: Any, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.variance_epsilon)

    norm.__dict__["forward"] = types.MethodType(forward, norm)
    return attested(probe, "input_layernorm")


@fault(
    "a whole layer",
    "a decoder layer is replaced by a clean one of the same weights",
    "MissingRows with its sites",
    by="error",
    engine="hf",
)
def decoder_layer_replaced() -> str:
    model = wrap(tiny(), "all")
    model.model.layers[1] = tiny().model.layers[1]
    return refused(lambda: logits(model), UP.rpartition(".mlp")[0], kind=MissingRows)


@fault(
    "one site in compiled code",
    "a layer is patched, and the model compiled after that",
    "MissingRows with the site, from the compiler or from the pass",
    by="error",
    engine="hf compiled",
)
def forward_patched_before_compiling() -> str:
    model = wrap(tiny(), "all")
    layer = model.model.layers[1].mlp.up_proj
    layer.forward = types.MethodType(lambda self, x: x @ self.weight.T, layer)
    torch._dynamo.reset()
    graph = torch.compile(model, backend="aot_eager")
    return refused(lambda: logits(graph), "up_proj", kind=Exception)


@fault(
    "one site in a compiled layer",
    "every layer is compiled by itself, and one of them patched inside",
    "MissingRows with the site, at the end of the pass",
    by="error",
    engine="hf compiled",
)
def forward_patched_in_a_compiled_layer() -> str:
    model = wrap(tiny(), "all")
    layer = model.model.layers[1].mlp.up_proj
    layer.forward = types.MethodType(lambda self, x: x @ self.weight.T, layer)
    torch._dynamo.reset()
    for one in model.model.layers:
        one.compile(backend="aot_eager")
    return refused(lambda: logits(model), UP, kind=MissingRows)


@fault(
    "rows' identity: another thread's",
    "two threads, one in the forward pass and one in a checkpointed backward",
    "gradients and log-probabilities are what they are alone",
    by="values",
    engine="hf",
)
def backward_beside_a_forward() -> str:
    model = wrap(tiny(), "all").train()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    weight = model.model.layers[0].mlp.up_proj.weight

    def gradient(_: int) -> Tensor:
        return torch.autograd.grad(model(IDS, labels=IDS).loss, weight)[0]

    def forward(_: int) -> Tensor:
        return logits(model, IDS.flip(0)[:, :9])

    wanted, other = gradient(0), forward(0)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(gradient, range(6)), pool.map(forward, range(6))
        same = all(torch.equal(a, wanted) for a in first)
        same &= all(torch.equal(a, other) for a in second)
    return noticed(same, "six of each, to the bit")


@fault(
    "rows' identity: another thread's",
    "threads that generate from prompts of unequal length",
    "each gets the tokens that it gets alone",
    by="values",
    engine="hf",
)
def threads_that_generate() -> str:
    model = wrap(tiny(), "all")
    prompts = [IDS[:1, : 3 + 2 * i] for i in range(5)]

    def answer(prompt: Tensor) -> list[int]:
        out = model.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0)
        return out[0].tolist()

    wanted = [answer(prompt) for prompt in prompts]
    with ThreadPoolExecutor(5) as pool:
        found = list(pool.map(answer, prompts * 2))
    return noticed(found == wanted * 2, "ten answers")


@fault(
    "rows' identity: the last pass's rows for another's values",
    "the final norm and the head by hand on hidden states of an earlier pass",
    "MissingRows",
    by="error",
    engine="hf",
)
def head_by_hand_after_two_passes() -> str:
    model = wrap(tiny(), "all")
    with torch.no_grad():
        states = model(IDS, output_hidden_states=True).hidden_states[-2]
        model(IDS.flip(0))
    return refused(lambda: model.lm_head(model.model.norm(states)), "outside", kind=MissingRows)


class Pair(nn.Module):
    """Runs one decoder for two batches inside one forward pass."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.encoder = model

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        first, second = (self.encoder.model(x).last_hidden_state for x in (a, b))
        return self.encoder.lm_head(first + second)


@fault(
    "rows' identity: a head over two passes",
    "a model that adds the hidden states of two passes before its head",
    "MissingRows: whose rows these are can't be known",
    by="error",
    engine="hf",
)
def head_over_two_passes() -> str:
    model = wrap(Pair(tiny()), "all")
    return refused(lambda: model(IDS, IDS.flip(0)), "ran 2 times", kind=MissingRows)


class ForeignNorm(nn.Module):
    """A norm of another library."""

    def __init__(self, clean: Any) -> None:
        super().__init__()
        self.weight, self.eps = clean.weight, clean.variance_epsilon

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, self.weight.shape, self.weight, self.eps)


def _classifier(cls: Any) -> Any:
    model = cls(tiny().config).eval()
    model.model = tiny().model
    return model


@fault(
    "one site under a head that is no language model's",
    "a token classifier whose norm is another library's",
    "ConfigError naming the class",
    by="error",
    engine="hf",
)
def foreign_norm_in_a_classifier() -> str:
    model = _classifier(Qwen2ForTokenClassification)
    model.model.layers[0].input_layernorm = ForeignNorm(model.model.layers[0].input_layernorm)
    return refused(
        lambda: wrap(model, "all"), "layers.0.input_layernorm (ForeignNorm)", kind=ConfigError
    )


@fault(
    "one site of a bare decoder inside containers",
    "a ModuleDict around a decoder, one of whose projections is another library's",
    "ConfigError naming the class",
    by="error",
    engine="hf",
)
def foreign_layer_in_a_container() -> str:
    decoder = tiny().model
    attention = decoder.layers[1].self_attn
    attention.o_proj = nn.Sequential(attention.o_proj)
    model = nn.ModuleDict({"policy": decoder})
    return refused(lambda: wrap(model, DECODER), "self_attn.o_proj (Sequential)", kind=ConfigError)


@fault(
    "the noise's address: names from the outer class",
    "one decoder as a sequence classifier, in a container, and alone",
    "its hidden states are the same three times",
    by="values",
    engine="hf",
)
def one_decoder_in_three_places() -> str:
    spec = DECODER
    wanted = wrap(tiny().model, spec)(IDS).last_hidden_state
    classifier = wrap(_classifier(Qwen2ForSequenceClassification), spec)
    seen: list[Tensor] = []
    classifier.model.norm.register_forward_hook(lambda m, a, out: seen.append(out))
    classifier(IDS[:1])
    container = nn.ModuleDict({"policy": nn.ModuleDict({"base": tiny()})})
    wrap(container, spec)
    other = container["policy"]["base"].model(IDS).last_hidden_state
    same = torch.equal(seen[0], wanted[:1]) and torch.equal(other, wanted)
    return noticed(same, "to the bit")


@fault(
    "the whole spec: refused where there is no head to leave out",
    "the default preset on a bare decoder and on a classifier",
    "both are noisy",
    by="values",
    engine="hf",
)
def default_preset_without_lm_head() -> str:
    decoder, classifier = tiny().model, _classifier(Qwen2ForTokenClassification)
    clean = decoder(IDS).last_hidden_state, classifier(IDS).logits
    noisy = wrap(decoder)(IDS).last_hidden_state, wrap(classifier)(IDS).logits
    gaps = [far(a, b) for a, b in zip(clean, noisy, strict=True)]
    return noticed(min(gaps) > 1e-3, f"by {gaps[0]:.2g} and {gaps[1]:.2g}")


@fault(
    "the step and the switch, frozen into a trace",
    "`torch.jit.trace_module` of a wrapped decoder",
    "ConfigError",
    by="error",
    engine="hf",
)
def traced_decoder() -> str:
    model = wrap(tiny().model, "rmsnorm")
    model.config.use_cache = False
    return refused(
        lambda: torch.jit.trace_module(model, {"forward": IDS}, strict=False, check_trace=False),
        "jit.trace",
        kind=ConfigError,
    )


@fault(
    "rows' identity: a batch that the model does not see",
    "`torch.func.vmap` over embeddings",
    "ConfigError",
    by="error",
    engine="hf",
)
def vmap_over_embeddings() -> str:
    model = wrap(tiny(), "all")
    embeds = torch.randn(3, 1, 5, model.config.hidden_size)
    run = torch.func.vmap(lambda one: model(inputs_embeds=one).logits)
    return refused(lambda: run(embeds), "vmap", kind=ConfigError)

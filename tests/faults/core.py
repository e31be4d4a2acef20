"""Faults of specifications and of the operator: no model is needed."""

from __future__ import annotations

import torch

from hetero_plugin import NoiseConfig, random
from hetero_plugin.config import AQNConfig, ConfigError, resolve
from hetero_plugin.evaluation.specs import evaluation_spec
from hetero_plugin.operator import Chain, perturb
from hetero_plugin.sites import Site, select, sites_from_config
from hetero_plugin.state import NoiseState
from tests.faults.registry import fault, noticed, refused

SITE = Site("layer", "linear", 0, 256, 64)
X = torch.randn(6, 256, generator=torch.Generator().manual_seed(0))
TOKENS = torch.arange(6)


def noise(ids: torch.Tensor, positions: torch.Tensor, x: torch.Tensor = X) -> torch.Tensor:
    """The error that the operator adds to x for these rows, at 10 %."""
    keys = random.row_keys(ids, positions)
    clock = torch.tensor([random.clock_key(0, 0)])
    segments = torch.tensor([[x.shape[1], random.site_key("layer", "output"), 0, 0]])
    return perturb(x, keys, clock, torch.tensor([0.1]), segments) - x


@fault(
    "the setting that was meant",
    "`scal: 0.05` in a specification",
    "ConfigError with the key and the one that was meant",
    by="error",
    engine="core",
)
def misspelled_key() -> str:
    return refused(lambda: NoiseConfig(scal=0.05), "'scal'", "'scale'", kind=ConfigError)


@fault(
    "every site",
    "targets `*.q_porj`, which no operator is called",
    "ConfigError when the specification meets the model",
    by="error",
    engine="core",
)
def targets_match_nothing() -> str:
    spec = NoiseConfig(scale=0.1, targets=["*.q_porj"])
    return refused(lambda: select(spec, [SITE]), "q_porj", "matches none", kind=ConfigError)


@fault(
    "the scale: YAML's `yes` would be 1.0",
    "`scale: true`",
    "ConfigError",
    by="error",
    engine="core",
)
def scale_that_is_a_truth_value() -> str:
    return refused(lambda: NoiseConfig(scale=True), "scale: got True", kind=ConfigError)


@fault(
    "one of two specifications",
    "a checkpoint and `additional_config` that ask for different scales",
    "ConfigError naming both places",
    by="error",
    engine="core",
)
def two_sources_disagree() -> str:
    return refused(
        lambda: resolve(
            model_config={"quant_method": "hetero_noise", "scale": 0.1},
            additional_config={"hetero_noise": {"scale": 0.2}},
            environ={},
        ),
        "quantization_config",
        'additional_config["hetero_noise"]',
        kind=ConfigError,
    )


@fault(
    "the specification: the engine would take the default",
    "`additional_config={'scale': 0.1}`, one level too high",
    "ConfigError",
    by="error",
    engine="core",
)
def specification_at_the_wrong_level() -> str:
    return refused(
        lambda: resolve(additional_config={"scale": 0.1}, environ={}), "top level", kind=ConfigError
    )


@fault(
    "everything",
    "`rules: []` without AQN",
    "ConfigError: it would be a clean run",
    by="error",
    engine="core",
)
def specification_that_does_nothing() -> str:
    return refused(lambda: NoiseConfig(rules=[]), "clean run", kind=ConfigError)


@fault(
    "a family's sites: names and sizes would be guessed",
    "the config.json of a family without a map",
    "UnknownArchitectureError with what to add",
    by="error",
    engine="core",
)
def unknown_family() -> str:
    return refused(
        lambda: sites_from_config({"model_type": "mamba"}), "'mamba'", "FAMILIES", kind=ConfigError
    )


@fault(
    "AQN's σ",
    "a schedule over the run's steps, asked without their number",
    "ConfigError",
    by="error",
    engine="core",
)
def length_of_the_run_unknown() -> str:
    return refused(lambda: AQNConfig(schedule="global").sigma(3), "total_steps", kind=ConfigError)


@fault(
    "noise in evaluation",
    "an evaluation under rules for gradients alone",
    "ConfigError: it would be clean",
    by="error",
    engine="core",
)
def gradient_noise_without_forward_noise() -> str:
    spec = {"preset": "linear", "direction": "backward"}
    return refused(lambda: evaluation_spec(spec, None, 0.1), "would be clean", kind=ConfigError)


@fault(
    "the phase of a rule bound to one",
    "a scale table whose phase nobody set, as compiled code sees it",
    "the operator refuses the scale NaN",
    by="error",
    engine="core",
)
def phase_never_set_in_compiled_code() -> str:
    state = NoiseState(NoiseConfig(scale=0.1, targets=["linear"], phase="train"), [SITE])
    made = Chain.of(state, "output", [("layer", 256, 0)])
    draw = state.draw.of(random.row_keys(TOKENS, TOKENS))
    return refused(lambda: made(X, draw), "phase", kind=RuntimeError)


@fault(
    "rows' identity: keys of other rows would be read",
    "an operator call with fewer row keys than rows",
    "the operator refuses the call",
    by="error",
    engine="core",
)
def fewer_row_keys_than_rows() -> str:
    return refused(lambda: noise(TOKENS[:3], TOKENS[:3]), "row", kind=RuntimeError)


@fault(
    "independence of tokens whose ids differ above 31 bits",
    "ids 5, 5 + 2³¹ and 5 + 2³² at one position",
    "three different errors",
    by="values",
    engine="core",
)
def token_ids_over_31_bits() -> str:
    ids = torch.tensor([5, 5 + 2**31, 5 + 2**32])
    found = noise(ids, torch.zeros(3, dtype=torch.long), X[:1].expand(3, -1).contiguous())
    pairs = [torch.equal(found[i], found[j]) for i, j in ((0, 1), (0, 2), (1, 2))]
    return noticed(not any(pairs) and bool(found.isfinite().all()), "three different errors")


@fault(
    "independence of far positions",
    "one token at 0, 2²⁰, 2³¹ − 1, 2³¹ and 2³² − 1",
    "five different, finite errors",
    by="values",
    engine="core",
)
def very_long_positions() -> str:
    positions = torch.tensor([0, 2**20, 2**31 - 1, 2**31, 2**32 - 1])
    keys = random.row_keys(torch.full((5,), 7), positions)
    found = noise(torch.full((5,), 7), positions, X[:1].expand(5, -1).contiguous())
    different = len({tuple(row) for row in found.tolist()}) == 5 and len(set(keys.tolist())) == 5
    return noticed(different and bool(found.isfinite().all()), "five different errors")


@fault(
    "rows beside a broken one",
    "NaN in one element of an activation",
    "it stays NaN, every other element is what it was",
    by="values",
    engine="core",
)
def nan_activation() -> str:
    return _broken(float("nan"))


@fault(
    "rows beside a broken one",
    "infinity in one element of an activation",
    "it stays non-finite, every other element is what it was",
    by="values",
    engine="core",
)
def infinite_activation() -> str:
    return _broken(float("inf"))


def _broken(value: float) -> str:
    broken = X.clone()
    broken[2, 17] = value
    whole, found = X + noise(TOKENS, TOKENS), broken + noise(TOKENS, TOKENS, broken)
    others = torch.ones_like(X, dtype=torch.bool)
    others[2, 17] = False
    return noticed(
        not found[2, 17].isfinite() and torch.equal(whole[others], found[others]),
        "the element stays non-finite and its neighbours as they were",
    )


@fault(
    "a rank whose batch is empty",
    "an activation of no rows",
    "no rows come back, of the right width and dtype",
    by="values",
    engine="core",
)
def empty_batch() -> str:
    found = noise(TOKENS[:0], TOKENS[:0], X[:0].bfloat16())
    right = found.shape == (0, 256) and found.dtype == torch.bfloat16
    return noticed(right, "an empty tensor comes back")


@fault(
    "the columns beside a shard without any",
    "a site with zero columns on a rank, before one that has them",
    "the other site's error is what it is alone",
    by="values",
    engine="core",
)
def site_with_zero_columns_on_a_rank() -> str:
    other = Site("other", "linear", 0, 256, 64)
    state = NoiseState(NoiseConfig(scale=0.1, targets=["linear"]), [SITE, other])
    draw = state.draw.of(random.row_keys(TOKENS, TOKENS))
    both = Chain.of(state, "output", [("layer", 0, 256), ("other", 256, 0)])(X, draw)
    alone = Chain.of(state, "output", [("other", 256, 0)])(X, draw)
    right = torch.equal(both, alone) and not torch.equal(alone, X)
    return noticed(right, "the same error with and without the empty shard")

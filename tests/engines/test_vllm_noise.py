"""Noise in a real vLLM engine, compiled: clean at scale 0, addressed, settable, equal to HF's.

At the end, on the same models: products added up as on another machine, and weights that share one
scale. Layer by layer both are Hugging Face's bit for bit; at scale 0 the engine is clean.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm")

from tests.engines import test_vllm_parity as parity
from tests.engines.operators import OperatorEngine, check_products, digest, of_vllm
from tests.engines.vllm_engine import Engine, EngineError, Record, make_model
from tests.engines.yardstick import hf_logprobs, hf_model

pytestmark = pytest.mark.engine

# One engine process for each role keeps starts few: starting is most of the time these take.
IN_PROCESS = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
PROMPTS = [[3 + (j * 11 + i * 7 + j * j) % 190 for j in range(30 + 13 * i)] for i in range(14)]
FEW = PROMPTS[:3]  # bits are compared between equal batches: GEMMs of other heights sum otherwise
SPEC: dict[str, Any] = {
    "rules": [
        {"targets": ["linear", "norm", "activation", "attention"], "scale": 0.05},
        {"targets": ["linear"], "point": "input", "scale": 0.02},
        {"targets": ["linear"], "point": "weight", "scale": 0.02},
    ],
    "aqn": {"schedule": "constant", "sigma_start": 0.05, "total_steps": 10},
    "seed": 5,
}
MODELS = {"float32": parity.SHAPES["tied"], "bfloat16": parity.SHAPES["grouped"]}
UNIT, PIECES = {"hardware": "hopper"}, {"split_k": 4, "partial_dtype": "bfloat16"}
SHARED = {"error": "nvfp4", "point": "weight", "options": {"share": "fused"}}
SUMS: dict[str, Any] = {
    "rules": [
        {"targets": ["*.layers.0.*_proj", "lm_head"], "error": "accumulate", "options": UNIT},
        {"targets": ["*.layers.1.*_proj"], "error": "accumulate", "options": PIECES},
        # A part of a fused layer with an input of its own, and layers with weights of their own.
        {"targets": ["*.layers.0.*q_proj"], "error": "mxfp8_e4m3", "point": "input"},
        {"targets": ["*.layers.1.*down_proj"], "error": "mxfp8_e4m3", "point": "weight"},
        {"targets": [f"*.layers.0.*.{x}_proj" for x in ("[qkv]", "gate", "up")], **SHARED},
    ],
}
ALONE = (1.0, 1.0, 0.0, 0.0, 0.0)
"""Scales of the rules: products added up otherwise, of the operands as they are."""


@dataclass
class Plain:
    """A model in one dtype, and what an engine without the plugin answers."""

    dtype: str
    model: Path
    clean: list[Record]
    few: list[Record]

    def start(self, log: Path, spec: Record | None = None, kind: type[Engine] = Engine) -> Engine:
        """An engine of the model, noisy if there is a specification."""
        noise: Record = {}
        if spec is not None:
            noise = {"quantization": "hetero_noise", "additional_config": {"hetero_noise": spec}}
        return kind(log, IN_PROCESS, model=str(self.model), dtype=self.dtype, **noise)


@dataclass
class Case:
    """A model in one dtype: its clean engine's answers, and its noisy engine, running."""

    dtype: str
    model: Path
    clean: list[Record]
    clean_few: list[Record]
    noisy: Engine
    first: list[Record]
    """The noisy engine's first answers, at the spec's scales."""
    few: list[Record]

    def ask(self, *prompts: list[int]) -> list[Record]:
        return self.noisy.logprobs(*prompts)


@pytest.fixture(scope="module", params=list(MODELS))
def plain(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Plain:
    dtype = request.param
    path = tmp_path_factory.mktemp(dtype)
    made = Plain(dtype, make_model(path / "model", dtype=dtype, **MODELS[dtype]), [], [])
    engine = made.start(path / "clean.log")
    made.clean, made.few = engine.logprobs(*PROMPTS), engine.logprobs(*FEW)
    engine.close()
    return made


@pytest.fixture(scope="module")
def case(plain: Plain) -> Iterator[Case]:
    noisy = plain.start(plain.model.with_name("noisy.log"), SPEC)
    first, few = noisy.logprobs(*PROMPTS), noisy.logprobs(*FEW)
    yield Case(plain.dtype, plain.model, plain.clean, plain.few, noisy, first, few)
    noisy.close()


@pytest.fixture(autouse=True)
def _reset(request: pytest.FixtureRequest) -> None:
    """Every test starts with the spec's own settings."""
    if "case" in request.fixturenames:
        made: Case = request.getfixturevalue("case")
        made.noisy.set(reset=True)
        made.noisy.ask("call", method="hetero_noise_step", arguments={"step": 0, "aqn": False})
        made.noisy.ask("call", method="hetero_noise_aqn", arguments={"off": True})


def gap(a: list[Record], b: list[Record]) -> float:
    """Largest difference of a prompt's log-probabilities."""
    pairs = (zip(x["prompt"], y["prompt"], strict=True) for x, y in zip(a, b, strict=True))
    return max(abs(u - v) for pair in pairs for u, v in pair)


def test_the_worker_says_once_what_it_does(case: Case) -> None:
    lines = [x for x in case.noisy.log.read_text().splitlines() if "hetero_noise: engine" in x]
    assert len(lines) == 1, lines
    for part in ("worker 0", "24 sites", "linear 14", "norm 5", "attention 2", "lm_head 1"):
        assert part in lines[0]
    status = case.noisy.status()
    assert status["fingerprint"] in lines[0] and status["total"] == 24
    assert status["compiled"]["aot"] == 1, "the engine must be compiled for these tests to count"


@pytest.mark.compat("scale 0", short=True)
def test_scale_zero_is_vllm_without_the_plugin_bit_for_bit(case: Case) -> None:
    assert gap(case.first, case.clean) > 0.1
    case.noisy.set(scale=0.0)
    assert case.ask(*PROMPTS) == case.clean


@pytest.mark.compat("scale 0")
def test_disabled_is_clean_and_enabled_is_what_it_was(case: Case) -> None:
    case.noisy.set(enabled=False)
    assert case.ask(*FEW) == case.clean_few
    case.noisy.set(enabled=True)
    assert case.ask(*FEW) == case.few


@pytest.mark.compat("runtime control")
def test_every_site_and_point_changes_the_output_when_switched_on(case: Case) -> None:
    sites = case.noisy.ask("call", method="hetero_noise_sites", arguments={})
    assert len(sites) == 24
    case.noisy.set(scale=0.0)
    clean = case.ask(PROMPTS[2])
    silent = []
    for site in sites:
        case.noisy.set(scale=0.1, site=site["name"])
        if case.ask(PROMPTS[2])[0]["prompt"] == clean[0]["prompt"]:
            silent.append(site["name"])
        case.noisy.set(scale=0.0, site=site["name"])
    assert silent == []
    assert case.ask(PROMPTS[2]) == clean


def test_a_token_has_its_error_alone_and_in_any_batch(case: Case) -> None:
    shuffled = [PROMPTS[i] for i in (7, 2, 13, 0, 5, 11, 1)]
    together = case.ask(*shuffled)
    alone = [case.ask(prompt)[0] for prompt in shuffled]
    if case.dtype == "float32":
        tolerance = 1e-5  # GEMMs of other heights, nothing else
    else:
        case.noisy.set(scale=0.0)
        clean = [case.ask(prompt)[0] for prompt in shuffled]
        tolerance = 1.5 * gap(case.ask(*shuffled), clean) + 1e-6
    assert gap(together, alone) <= tolerance


def apart(a: Record, b: Record) -> float:
    """Largest difference of two answers' log-probabilities, as long as their tokens agree."""
    worst = 0.0
    pairs = zip(a["tokens"], b["tokens"], a["decoded"], b["decoded"], strict=True)
    for one, other, u, v in pairs:
        worst = max(worst, abs(u - v))
        if one != other:
            break
    return worst


def bounds(case: Case, twice: Any) -> tuple[float, float]:
    """How far two ways to one answer may be apart under the noise, and what another noise makes.

    Args:
        twice: gives the answers come to in one way, and in the other.

    Returns:
        Half as much again as the engine's own two ways are apart at scale 0 (they multiply matrices
        of other heights), with the floor of float32's last places; and the difference from the next
        step's noise, in the middle of the answers.
    """
    first, _ = twice()
    case.noisy.ask("call", method="hetero_noise_step", arguments={"step": 1, "aqn": False})
    other, _ = twice()
    case.noisy.ask("call", method="hetero_noise_step", arguments={"step": 0, "aqn": False})
    case.noisy.set(scale=0.0)
    clean = max(apart(a, b) for a, b in zip(*twice(), strict=True))
    case.noisy.set(reset=True)
    noise = sorted(apart(a, b) for a, b in zip(first, other, strict=True))
    return max(1.5 * clean, 1e-5), noise[len(noise) // 2]


def test_a_cached_prefix_has_the_error_of_a_computed_one(case: Case) -> None:
    def twice() -> tuple[list[Record], list[Record]]:
        prompts = [[3 + (j * 5 + i * (j + 3)) % 190 for j in range(140)] for i in range(8)]
        ask = lambda p: case.noisy.ask("continuation", prompt=[*p, 7, 9], tokens=6)  # noqa: E731
        first, again = [ask(p) for p in prompts], [ask(p) for p in prompts]
        assert all(one["cached"] == 0 for one in first)
        assert all(one["cached"] >= 128 for one in again)
        return first, again

    bound, noise = bounds(case, twice)
    first, again = twice()
    assert again[0]["tokens"] == first[0]["tokens"]
    assert max(apart(a, b) for a, b in zip(first, again, strict=True)) <= bound
    assert noise > 2 * bound, "another noise must not pass for this one"


def test_decoding_has_the_error_of_the_same_tokens_as_a_prompt(case: Case) -> None:
    """Token by token from the cache, and all at once; with the LM head's rows picked two ways."""

    def twice() -> tuple[list[Record], list[Record]]:
        decoded = [case.noisy.logprobs(prompt, tokens=12)[0] for prompt in PROMPTS[:6]]
        whole = []
        for prompt, out in zip(PROMPTS, decoded, strict=False):
            values = case.ask(prompt + out["tokens"])[0]["prompt"][len(prompt) - 1 :]
            whole.append({"tokens": out["tokens"], "decoded": values})
        return decoded, whole

    bound, noise = bounds(case, twice)
    assert max(apart(a, b) for a, b in zip(*twice(), strict=True)) <= bound
    assert noise > 2 * bound, "another noise must not pass for this one"


def test_changing_anything_empties_the_prefix_cache(case: Case) -> None:
    prompt = [3 + (j * 7) % 190 for j in range(150)]
    ask = lambda: case.noisy.ask("continuation", prompt=prompt, tokens=2)["cached"]  # noqa: E731
    for method, arguments in (
        ("hetero_noise_set", {"scale": 0.04}),
        ("hetero_noise_set", {"enabled": True}),
        ("hetero_noise_step", {"step": 3}),
        ("hetero_noise_aqn", {"step": 4}),
        ("hetero_noise_phase", {"phase": "rollout"}),
    ):
        ask()
        assert ask() >= 128, "the cache must be in use for this test to count"
        case.noisy.ask("call", method="hetero_noise_status", arguments={})
        assert ask() >= 128, "asking for the status changes nothing"
        case.noisy.ask("call", method=method, arguments=arguments)
        assert ask() == 0, method


@pytest.mark.compat("runtime control", short=True)
def test_nothing_is_compiled_by_setting_stepping_and_switching(case: Case) -> None:
    before = case.noisy.status()["compiled"]
    seen = []
    for step, scale in enumerate((0.0, 0.01, 0.1)):
        case.noisy.set(scale=scale)
        case.noisy.ask("call", method="hetero_noise_step", arguments={"step": step})
        seen.append(case.ask(PROMPTS[0], PROMPTS[4]))
    case.noisy.set(scale=0.3, kind="norm", enabled=False)
    case.noisy.ask("call", method="hetero_noise_aqn", arguments={"off": True})
    case.ask(PROMPTS[3])
    assert case.noisy.status()["compiled"] == before
    assert gap(seen[0], seen[1]) > 0 and gap(seen[1], seen[2]) > 0


@pytest.mark.compat("runtime control", short=True)
def test_another_step_is_other_noise_and_the_same_step_the_same(case: Case) -> None:
    case.noisy.ask("call", method="hetero_noise_step", arguments={"step": 1, "aqn": False})
    other = case.ask(*FEW)
    assert gap(other, case.few) > 0.01
    case.noisy.ask("call", method="hetero_noise_step", arguments={"step": 0, "aqn": False})
    assert case.ask(*FEW) == case.few


@pytest.mark.compat("runtime control", short=True)
def test_aqn_moves_the_norms_and_off_is_as_before(case: Case) -> None:
    status = case.noisy.ask("call", method="hetero_noise_aqn", arguments={"step": 2})
    assert status["sigma"] == pytest.approx(0.05) and status["aqn_step"] == 2
    shifted = case.ask(*FEW)
    assert gap(shifted, case.few) > 0.01
    case.noisy.ask("call", method="hetero_noise_aqn", arguments={"off": True})
    assert case.ask(*FEW) == case.few


@pytest.mark.compat("weight sync", short=True)
def test_weights_can_be_loaded_again_and_noise_stays(case: Case, tmp_path: Path) -> None:
    """Nobody empties the prefix cache here: whoever loads weights must not have to."""
    other = make_model(tmp_path / "other", dtype=case.dtype, seed=1, **MODELS[case.dtype])
    name = "model.layers.1.self_attn.qkv_proj.weight"
    prompt = [3 + (j * 11) % 190 for j in range(150)]

    def tail() -> Record:
        found: Record = case.noisy.ask("continuation", prompt=prompt, tokens=2)
        return found

    digest = case.noisy.ask("weights", name=name)
    case.noisy.ask("call", method="hetero_noise_step", arguments={"step": 3})
    noisy, end = case.ask(PROMPTS[0], PROMPTS[5]), tail()
    assert tail()["cached"] >= 128
    for process in (True, False, True):  # with and without processing after loading
        case.noisy.ask("reload", path=str(other), process=process)
        assert case.noisy.ask("weights", name=name) != digest
        changed = case.ask(PROMPTS[0], PROMPTS[5])
        assert gap(changed, noisy) > 0.5, "the new weights must be in use"
        assert tail()["cached"] == 0, "keys and values of the old weights"
        case.noisy.ask("reload", path=str(case.model), process=process)
        assert case.noisy.ask("weights", name=name) == digest
        assert case.ask(PROMPTS[0], PROMPTS[5]) == noisy
        assert tail() == end
    status = case.noisy.status()
    assert status["sigma"] == pytest.approx(0.05) and status["step"] == 3


@pytest.mark.parametrize(
    ("method", "arguments", "said"),
    [
        ("hetero_noise_set", {"scale": -0.1}, "-0.1"),
        ("hetero_noise_set", {"scale": "much"}, "much"),
        ("hetero_noise_set", {"scale": True}, "True"),
        ("hetero_noise_set", {"scale": 0.1, "kind": "liner"}, "liner"),
        ("hetero_noise_set", {"scale": 0.1, "site": "model.layers.9.mlp.up_proj"}, "layers.9"),
        ("hetero_noise_set", {}, "needs a scale"),
        ("hetero_noise_step", {"step": -1}, "-1"),
        ("hetero_noise_step", {"step": 1.5}, "1.5"),
        ("hetero_noise_phase", {"phase": "sleep"}, "sleep"),
        # What is refused in part is refused as a whole.
        ("hetero_noise_set", {"scale": 0.1, "kind": "liner", "reset": True}, "liner"),
        ("hetero_noise_set", {"scale": -0.1, "enabled": False}, "-0.1"),
        ("hetero_noise_step", {"step": 9, "aqn": "no"}, "no"),
    ],
)
def test_a_bad_setting_says_what_was_given(
    case: Case, method: str, arguments: Record, said: str
) -> None:
    case.noisy.set(scale=0.03)
    before = case.noisy.ask("call", method="hetero_noise_sites", arguments={}), case.noisy.status()
    with pytest.raises(EngineError) as caught:
        case.noisy.ask("call", method=method, arguments=arguments)
    assert said in str(caught.value)
    after = case.noisy.ask("call", method="hetero_noise_sites", arguments={}), case.noisy.status()
    assert after == before


@pytest.mark.compat("parity with HF", short=True)
def test_the_error_is_the_same_number_as_in_hugging_face(case: Case) -> None:
    """All kinds, all points, and AQN; a token's error must not depend on the engine.

    The bound is what the clean engines differ by, half as much again; in float32 that is a few
    units in the last place, and gets a floor of as many.
    """
    from hetero_plugin.aqn.controller import AQNController
    from hetero_plugin.config import NoiseConfig
    from hetero_plugin.hf import state_of, wrap

    def ask_hf() -> list[Record]:
        return [{"prompt": values} for values in hf_logprobs(model, PROMPTS)]

    config = NoiseConfig.parse(copy.deepcopy(SPEC))
    model = hf_model(case.model, case.dtype, "sdpa")
    clean = ask_hf()
    clean_gap = gap(clean, case.clean)
    bound = max(1.5 * clean_gap, 2e-5)
    wrap(model, config)
    noisy = ask_hf()
    assert sum(len(p) for p in PROMPTS) > 1500
    assert gap(noisy, case.first) <= bound
    assert gap(noisy, clean) >= 10 * clean_gap, "the noise must be well above the engines' own gap"
    assert config.aqn is not None
    AQNController(config.aqn, state_of(model).attach_aqn()).step(7)
    case.noisy.ask("call", method="hetero_noise_aqn", arguments={"step": 7})
    shifted = case.ask(*PROMPTS)
    assert gap(shifted, case.first) > 10 * clean_gap
    assert gap(ask_hf(), shifted) <= bound


@pytest.mark.parametrize("scope", list(parity.SCOPES))
def test_each_scope_is_the_same_number_in_hugging_face(case: Case, scope: str) -> None:
    """As in test_vllm_parity.py for other shapes, here with error on inputs and weights too."""
    from hetero_plugin.hf import state_of, wrap

    model = hf_model(case.model, case.dtype, "sdpa")
    case.noisy.set(scale=0.0)
    clean, ours = parity.flat(hf_logprobs(model, parity.PROMPTS)), parity.asked(case.noisy)
    case.noisy.set(reset=True)
    wrap(model, SPEC, quiet=True)
    for kind in [*parity.SCOPES[scope][1], "attention"]:
        case.noisy.set(scale=0.0, kind=kind)
        state_of(model).set_scale(0.0, kind=kind)
    noisy = parity.flat(hf_logprobs(model, parity.PROMPTS))
    parity.hold(case.dtype, (clean, ours), (noisy, parity.asked(case.noisy)))


@pytest.fixture(scope="module")
def summing(plain: Plain) -> Iterator[Engine]:
    engine = plain.start(plain.model.with_name("summing.log"), SUMS, OperatorEngine)
    yield engine
    engine.close()


def wrapped(plain: Plain, scales: tuple[float, ...] = ()) -> Any:
    """Hugging Face's model under the same rules, at the scales that the engine is set to."""
    from hetero_plugin.hf import state_of, wrap

    model = wrap(hf_model(plain.model, plain.dtype, "sdpa"), SUMS, quiet=True)
    for rule, scale in enumerate(scales):
        state_of(model).set_scale(scale, rule=rule)
    return model


def test_sums_at_scale_zero_are_vllms_and_at_one_the_same_again(
    plain: Plain, summing: Engine
) -> None:
    summing.set(reset=True)
    first = summing.logprobs(*FEW)
    assert first != plain.few
    summing.set(scale=0.0)
    assert summing.logprobs(*FEW) == plain.few
    summing.set(reset=True)
    assert summing.logprobs(*FEW) == first


@pytest.mark.parametrize("formats", [False, True])
def test_products_are_those_of_hugging_face_bit_for_bit(
    plain: Plain, summing: Engine, formats: bool
) -> None:
    """All linear layers and the head, on Hugging Face's inputs: as Hopper adds up, and in four
    pieces with bfloat16 sums; with formats on an input, a weight, and weights of one scale too."""
    scales = tuple(1.0 for _ in ALONE) if formats else ALONE
    summing.rules(*scales)
    compared = check_products(summing, wrapped(plain, scales), PROMPTS[1])
    print(f"{plain.dtype}: {compared} numbers, no difference")
    assert compared > 30_000


def test_weights_that_share_a_scale_are_those_of_hugging_face(
    plain: Plain, summing: Engine
) -> None:
    """Of vLLM's fused matrices and of Hugging Face's layers one by one: the same bits of Q(W)."""
    import torch

    from hetero_plugin.errors import error_model

    summing.set(reset=True)
    model = wrapped(plain)
    with torch.no_grad():
        model(torch.tensor([PROMPTS[0]]))
    moved = 0
    for layer, names in of_vllm(1).items():
        if len(names) == 1:
            continue
        modules = [model.get_submodule(name) for name in names]
        held = [module.__dict__["hetero_noise"].held._made.q for module in modules]
        assert summing.ask("held", name=layer) == [digest(weight) for weight in held], layer
        for module, q in zip(modules, held, strict=True):
            alone = error_model("nvfp4").function(module.weight.float(), torch.tensor(1.0), None)
            moved += not torch.equal(alone.to(q.dtype), q)
    assert moved >= 2, "the scale of one layer alone would be another"


def test_log_probabilities_under_another_machines_sums(plain: Plain, summing: Engine) -> None:
    """No further from Hugging Face's than half as much again as the clean engines are.

    In bfloat16, the dtype of matrix units. In float32 a unit cuts operands off after ten bits: a
    step, before which one engine's activation may lie and the other's behind (docs/accumulators.md
    has the numbers).
    """
    clean = parity.flat(hf_logprobs(hf_model(plain.model, plain.dtype, "sdpa"), parity.PROMPTS))
    summing.set(scale=0.0)
    clean_gap = parity.gap(plain.dtype, clean, parity.asked(summing))
    found = {}
    for name, scales in {"hopper": (1.0, 0.0), "pieces": (0.0, 1.0), "both": (1.0, 1.0)}.items():
        summing.rules(*scales, 0.0, 0.0, 0.0)
        model = wrapped(plain, (*scales, 0.0, 0.0, 0.0))
        theirs = parity.flat(hf_logprobs(model, parity.PROMPTS))
        ours = parity.asked(summing)
        assert theirs != clean, name
        found[name] = parity.gap(plain.dtype, ours, theirs), parity.gap(plain.dtype, theirs, clean)
    words = ", ".join(f"{name} {gap:.2g} (moved {by:.2g})" for name, (gap, by) in found.items())
    print(f"{plain.dtype}: clean engines {clean_gap:.2g}; {words}")
    for name, (gap, _) in found.items():
        assert plain.dtype == "float32" or gap <= 1.5 * clean_gap, name


def test_sums_are_attested(plain: Plain, summing: Engine) -> None:
    """In layers as narrow as these Hopper's error is less than bfloat16 shows: sites that have no
    other are named, and no site else. In float32, where it cuts operands off, all are seen."""
    from hetero_plugin.attestation import problems

    summing.set(reset=True)
    record = summing.ask("attest", spec=SUMS)
    found = problems(record)
    print(f"{plain.dtype}: {found}")
    if plain.dtype == "float32":
        assert found == []
        return
    layer = "model.layers.0"
    unseen = {site["name"] for site in record["sites"] if not site["seen"]}
    assert unseen <= {f"{layer}.self_attn.o_proj", f"{layer}.mlp.down_proj", "lm_head"}
    assert all(words.startswith("every site seen") for words in found)

"""Run-time settings: scales, phases, steps, AQN offsets; bad ones are refused in words."""

from __future__ import annotations

import json

import pytest
import torch

from hetero_plugin import random
from hetero_plugin.aqn import AQNController
from hetero_plugin.config import AQNConfig, ConfigError, NoiseConfig
from hetero_plugin.operator import Chain
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState

SITES = [
    Site("model.layers.0.q", "linear", 0, 32, 16),
    Site("model.layers.1.q", "linear", 1, 32, 16),
    Site("model.layers.0.input_layernorm", "norm", 0, 16, None),
    Site("model.norm", "norm", None, 16, None),
    Site("lm_head", "lm_head", None, 64, 16),
]


def state(**spec: object) -> NoiseState:
    return NoiseState(NoiseConfig(**spec), SITES, max_rows=8)


def test_slots_cover_each_stream_of_each_selected_site() -> None:
    made = state(preset="all")
    linear = [slot.stream for slot in made.slots if slot.site.name == "model.layers.0.q"]
    norm = [slot.stream for slot in made.slots if slot.site.name == "model.norm"]
    assert linear == ["output", "grad_input", "grad_weight"]
    assert norm == ["output", "grad_input"]
    assert made.scales[0] == 0 and (made.scales[1:] > 0).all()
    forward = state(scale=0.1, targets=["linear"], direction="forward")
    assert {slot.stream for slot in forward.slots} == {"output"}


def test_set_scale_by_kind_and_site_and_back() -> None:
    made = state(preset="all")
    before = made.scales.clone()
    pointer = made.scales.data_ptr()
    assert made.set_scale(0.2, kind="norm") == 4
    assert made.set_scale(enabled=False, site="lm_head") == 3
    live = {slot.site.name: float(made.scales[slot.index]) for slot in made.slots}
    assert live["model.norm"] == pytest.approx(0.2)
    assert live["lm_head"] == 0.0
    assert live["model.layers.0.q"] == pytest.approx(0.05)
    made.reset_scales()
    assert torch.equal(made.scales, before)
    assert made.scales.data_ptr() == pointer, "captured graphs read this address"


@pytest.mark.parametrize(
    "kwargs,words",
    [
        ({"scale": -1.0}, "finite number >= 0"),
        ({"scale": float("nan")}, "finite number >= 0"),
        ({"scale": float("inf")}, "finite number >= 0"),
        ({"scale": 10**400}, "finite number >= 0"),
        ({"scale": 10**6000}, "finite number >= 0"),
        ({"scale": True}, "finite number >= 0"),
        ({"scale": 3.5e38}, "infinite in the float32 table"),
        ({"scale": 1e-46}, "0 in the float32 table"),
        ({"scale": 5e-324}, "0 in the float32 table"),
        ({}, "needs a scale, enabled, or both"),
        ({"scale": 0.1, "kind": "attention"}, "kind='attention'"),
        ({"scale": 0.1, "site": "model.layers.9.q"}, "model.layers.9.q"),
    ],
)
def test_bad_settings_are_refused_and_change_nothing(kwargs: dict, words: str) -> None:
    made = state(preset="all")
    before = made.scales.clone()
    with pytest.raises(ConfigError, match=words):
        made.set_scale(**kwargs)
    assert torch.equal(made.scales, before)


def test_a_phase_bound_rule_without_a_phase_is_refused_by_the_operator() -> None:
    made = state(scale=0.1, targets=["linear"], phase="rollout")
    layer = Chain.of(made, "output", [("model.layers.0.q", 32, 0)])
    x = torch.randn(8, 32)
    with pytest.raises(ConfigError, match="no phase is set"):
        made.check_phase()
    with pytest.raises(RuntimeError, match="one phase only"):
        layer(x, made.draw)
    with pytest.raises(RuntimeError, match="one phase only"):
        torch.compile(lambda v: layer(v, made.draw), backend="eager")(x)
    made.set_phase("train")
    assert torch.equal(layer(x, made.draw), x)
    made.set_phase("rollout")
    assert not torch.equal(layer(x, made.draw), x)
    made.set_enabled(False)
    made.set_phase(None)
    assert torch.equal(layer(x, made.draw), x), "disabled needs no phase"
    with pytest.raises(ConfigError, match="'rollout', 'train' or None"):
        made.set_phase("eval")  # type: ignore[arg-type]


@pytest.mark.parametrize("policy", ["step", "never", "call"])
def test_resampling(policy: str) -> None:
    made = state(scale=0.1, targets=["linear"], resample=policy)
    layer = Chain.of(made, "output", [("model.layers.0.q", 32, 0)])
    x, ids, positions = torch.randn(8, 32), torch.arange(8), torch.arange(8)

    def run() -> torch.Tensor:
        made.set_rows(ids, positions)
        return layer(x, made.draw)

    first = run()
    assert torch.equal(run(), first) == (policy != "call")
    first = run()
    made.set_step(1)
    assert torch.equal(run(), first) == (policy == "never")
    if policy == "step":
        made.set_step(0)
        assert torch.equal(run(), first)


def test_calls_draw_from_the_documented_clock() -> None:
    made = state(scale=0.1, targets=["linear"], resample="call", seed=5)
    for call in range(1, 4):
        made.set_rows(torch.arange(8), torch.arange(8))
        assert made.draw.clock.item() == random.clock_key(5, call)


def test_too_many_rows_are_refused() -> None:
    with pytest.raises(RuntimeError, match="9 rows, but the row-key buffer holds 8"):
        state(scale=0.1).set_rows(torch.arange(9), torch.arange(9))


def test_a_target_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="attention"):
        state(scale=0.1, targets=["attention"])


def test_status_and_description_are_plain_data() -> None:
    made = state(preset="all", aqn={"schedule": "constant", "sigma_start": 0.01, "total_steps": 4})
    status = json.loads(json.dumps(made.status(), allow_nan=False))
    assert status["sites"] == {"linear": 2, "lm_head": 1, "norm": 2}
    assert status["fingerprint"] == made.config.fingerprint
    line = made.describe("engine worker")
    assert "engine worker: 5 sites (linear 2, lm_head 1, norm 2)" in line
    assert made.config.fingerprint in line
    unset = state(scale=0.1, targets=["linear"], phase="train")
    json.dumps(unset.status(), allow_nan=False)


def test_aqn_offsets() -> None:
    """σ·z, one z a step, the same in every process; off is exactly zero; only norms are touched."""
    config = AQNConfig(schedule="constant", sigma_start=0.01, total_steps=4)
    made = state(preset="qerl-fp4", aqn=config)
    controller = AQNController(config, made.attach_aqn())
    assert made.aqn is not None and made.aqn.offsets.count_nonzero() == 0
    assert controller.step(1) == pytest.approx(0.01)
    first = made.aqn.offsets.clone()
    assert 0.005 < float(first.std()) < 0.02
    again = NoiseState(made.config, SITES, max_rows=8)
    AQNController(config, again.attach_aqn()).step(1)
    assert again.aqn is not None and torch.equal(again.aqn.offsets, first)
    controller.step(2)
    assert not torch.equal(made.aqn.offsets, first)
    controller.step(1)
    assert torch.equal(made.aqn.offsets, first), "set, not added"
    assert torch.equal(made.aqn.view("model.norm"), first[16:])
    view = made.aqn.view("model.norm")
    controller.off()
    assert controller.sigma == 0 and view.count_nonzero() == 0, "views follow"


def test_aqn_factors_scale_the_offsets_of_their_layer() -> None:
    """The same z; times the factor in float32, bit for bit; `model.norm` is in no layer."""
    plain = AQNConfig(schedule="constant", sigma_start=0.01)
    wanted = NoiseState(NoiseConfig(preset="qerl-fp4", aqn=plain), SITES, max_rows=8)
    AQNController(plain, wanted.attach_aqn()).step(3)
    config = plain.replace(multipliers={0: 1.5})
    made = state(preset="qerl-fp4", aqn=config)
    controller = AQNController(config, made.attach_aqn())
    assert controller.step(3) == 0.01
    assert made.aqn is not None and wanted.aqn is not None
    for site in made.aqn.sites:
        z = wanted.aqn.view(site.name)
        assert torch.equal(made.aqn.view(site.name), z * (1.5 if site.layer == 0 else 1.0))
    one = made.config.replace(aqn=plain.replace(layers=[0]))
    assert [s.name for s in NoiseState(one, SITES, max_rows=8).attach_aqn().sites] == [
        site.name for site in made.aqn.sites if site.layer == 0
    ]


def test_scales_and_sigma_must_fit_the_table() -> None:
    """A number that float32 takes for 0 would be a clean run under the name of a noisy one."""
    with pytest.raises(ConfigError, match=r"rules\[0\].scale is 1e-50, which is 0 in the float32"):
        state(scale=1e-50, targets=["linear"])
    config = AQNConfig(schedule="constant", sigma_start=1e-60)
    made = state(preset="qerl-fp4", aqn=config)
    with pytest.raises(ConfigError, match="sigma is 1e-60, which is 0"):
        AQNController(config, made.attach_aqn()).step(0)
    assert made.set_scale(3.4e38) > 0 and bool(torch.isfinite(made.scales).all())


@pytest.mark.parametrize(
    "step",
    [-1, 2**63, 10**5000, 1.5, float("nan"), True, "3", None],
    ids=["negative", "2^63", "5001 digits", "1.5", "nan", "True", "text", "None"],
)
def test_a_step_without_a_draw_of_its_own_is_refused(step: object) -> None:
    made = state(preset="all")
    before = made.draw.clock.clone()
    with pytest.raises(ConfigError, match="step: got"):
        made.set_step(step)  # type: ignore[arg-type]
    assert torch.equal(made.draw.clock, before) and made.step == 0
    made.set_step(2**63 - 1)
    with pytest.raises(ConfigError, match="step"):
        AQNConfig(schedule="linear", total_steps=9).sigma(2**63)


def test_one_gate_for_everything() -> None:
    """Closed by the switch, by AQN's own, or by holds that nest; what is set waits behind it."""
    config = AQNConfig(schedule="constant", sigma_start=0.01)
    made = state(preset="all", aqn=config)
    controller, offsets = AQNController(config, made.attach_aqn()), made.aqn
    assert offsets is not None
    pointer = offsets.offsets.data_ptr()
    controller.step(1)
    first = offsets.offsets.clone()
    outer, inner = made.hold(), made.hold()
    assert not made.scales.any() and not offsets.any() and not offsets.offsets.any()
    controller.step(2)
    made.release(inner)
    made.set_enabled(True)
    assert not made.enabled and not made.scales.any() and not offsets.offsets.any()
    made.release(outer)
    made.release(outer)
    assert made.enabled and offsets.any() and not torch.equal(offsets.offsets, first)
    made.set_aqn_enabled(False)
    assert made.scales.any() and not offsets.offsets.any() and offsets.sigma == 0.01
    made.set_enabled(False)
    controller.step(1)
    made.set_enabled(True)
    assert not offsets.offsets.any(), "AQN's own switch is still off"
    made.reset_scales()
    assert torch.equal(offsets.offsets, first)
    assert offsets.offsets.data_ptr() == pointer, "captured graphs read this address"
    offsets.offsets.data.zero_()
    assert not offsets.any(), "by the tensor, whoever wrote it"


def test_a_refused_change_gives_back_what_was_set() -> None:
    config = AQNConfig(schedule="constant", sigma_start=0.01)
    old, new = (state(preset="all", aqn=config) for _ in range(2))
    AQNController(config, old.attach_aqn()).step(3)
    old.set_scale(0.3)
    old.set_step(5)
    hold = old.hold()
    new.take_over(old)
    assert not new.enabled and new.step == 5
    new.release(hold)
    old.release(hold)
    assert torch.equal(new.scales, old.scales)
    assert new.aqn is not None and torch.equal(new.aqn.offsets, old.aqn.offsets)  # type: ignore

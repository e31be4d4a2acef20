"""Classes that other libraries put on a layer: theirs stay, whoever came first, and go again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.nn.utils import parametrizations, parametrize

from hetero_plugin import (
    AQN,
    AQNConfig,
    ConfigError,
    NoiseConfig,
    disabled,
    state_of,
    unwrap,
    update,
    wrap,
)
from hetero_plugin.hf.classes import own_class
from tests.hf.conftest import tiny

SPEC = NoiseConfig(scale=0.1, targets=["linear", "lm_head", "norm", "attention"])
IDS = torch.randint(1, 272, (2, 9), generator=torch.Generator().manual_seed(1))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


class Half(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x / 2


def parametrized(model: Any) -> None:
    parametrize.register_parametrization(model.model.layers[0].mlp.up_proj, "weight", Half())
    parametrize.register_parametrization(model.model.layers[1].self_attn.o_proj, "weight", Half())
    parametrize.register_parametrization(model.model.norm, "weight", Half())


def weight_normed(model: Any) -> None:
    parametrizations.weight_norm(model.lm_head)
    with torch.no_grad():
        model.lm_head.parametrizations.weight.original0.mul_(1.5)


def weight_normed_by_hook(model: Any) -> None:
    torch.nn.utils.weight_norm(model.lm_head)
    with torch.no_grad():
        model.lm_head.weight_g.mul_(1.5)


def spectral_normed(model: Any) -> None:
    torch.manual_seed(5)
    parametrizations.spectral_norm(model.model.layers[0].mlp.down_proj)


def both(model: Any) -> None:
    weight_normed(model)
    parametrized(model)
    torch.manual_seed(5)
    parametrizations.orthogonal(model.model.layers[1].self_attn.q_proj, use_trivialization=False)


CHANGES = [parametrized, weight_normed, weight_normed_by_hook, spectral_normed, both]


def gone(model: Any) -> None:
    """Takes off again what `CHANGES` put on, by its own function."""
    for module in model.modules():
        for name in list(getattr(module, "parametrizations", ())):
            parametrize.remove_parametrizations(module, name)
        if hasattr(module, "weight_g"):
            torch.nn.utils.remove_weight_norm(module)


def types(model: Any) -> list[str]:
    return [type(module).__name__ for module in model.modules()]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_whoever_comes_first(change: Callable[[Any], None]) -> None:
    """The same noise, and the model that one library or the other leaves when it goes."""
    plain = tiny()
    change(plain)
    clean, names = logits(plain), types(plain)
    wrap(plain, SPEC)
    noisy = logits(plain)
    assert not torch.equal(noisy, clean)
    model = wrap(tiny(), SPEC)
    change(model)
    if change is spectral_normed:  # starts at a vector drawn after another pass of its own
        noisy = logits(model)
    for one in (plain, model):
        assert torch.equal(logits(one), noisy)
        with disabled(one):
            assert torch.equal(logits(one), clean)
        update(one, SPEC)
        assert torch.equal(logits(one), noisy)
        twin = copy.deepcopy(one) if change is not weight_normed_by_hook else one
        assert torch.equal(logits(twin), noisy)
        unwrap(one)
        assert types(one) == names and torch.equal(logits(one), clean)
        wrap(one, SPEC)
        gone(one)  # while it is noisy
        assert not torch.equal(logits(one), clean)
        unwrap(one)
        assert types(one) == types(tiny())
        torch.testing.assert_close(logits(one), clean, rtol=0, atol=1e-4)


def test_training_through_a_spectral_norm_reads_its_weight_once() -> None:
    """Off is clean also where reading a weight changes it."""

    def step(model: Any) -> torch.Tensor:
        spectral_normed(model)
        model.train()
        for _ in range(3):
            loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        return loss.detach()

    with_noise = wrap(tiny(), SPEC)
    state_of(with_noise).set_enabled(False)
    assert torch.equal(step(with_noise), step(tiny()))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


PARTS: dict[str, Callable[[Any], list[Any]]] = {
    "head": lambda m: [m.lm_head],
    "norm": lambda m: [m.model.norm],
    "linears": lambda m: [x for x in m.modules() if isinstance(x, nn.Linear)],
    "layers": lambda m: [*m.model.layers, m],
}


@pytest.mark.parametrize("part", list(PARTS))
@pytest.mark.parametrize("first", ["wrap", "shard"])
def test_fsdp2_on_single_layers(part: str, first: str, alone: None) -> None:
    """Sharded stays sharded: its class, its hooks and its gradients."""

    def shard(model: Any) -> list[Any]:
        parts = PARTS[part](model)
        for one in parts:
            fully_shard(one, mesh=dist.init_device_mesh("cpu", (1,)))
        return parts

    def gradients(model: Any) -> dict[str, torch.Tensor]:
        model.zero_grad(set_to_none=True)
        model(input_ids=IDS, labels=IDS).loss.backward()
        found = {n: p.grad for n, p in model.named_parameters()}
        return {n: g.full_tensor() if hasattr(g, "full_tensor") else g for n, g in found.items()}

    plain = tiny()
    shard(plain)
    clean, names, wanted = logits(plain), types(plain), gradients(plain)
    reference = logits(wrap(tiny(), SPEC))
    config = AQNConfig(schedule="constant", sigma_start=0.1)
    if first == "wrap":
        model: Any = tiny()
        AQN(wrap(model, SPEC), config)
        parts = shard(model)
    else:
        model = tiny()
        parts = shard(model)
        AQN(wrap(model, SPEC), config)
    for _ in range(2):
        assert torch.equal(logits(model), reference)
        assert all(isinstance(one, FSDPModule) for one in parts)
        update(model, state_of(model).config)
    with disabled(model):
        assert torch.equal(logits(model), clean)
    aqn = AQN(model)
    aqn.step(1)
    assert not torch.equal(logits(model), reference)
    unwrap(model)
    assert types(model) == names and torch.equal(logits(model), clean)
    found = gradients(model)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def test_a_class_that_calls_what_it_covers_is_refused_and_nothing_is_changed() -> None:
    model = wrap(tiny(), SPEC)
    layer = model.model.layers[0].mlp.gate_proj
    under = type(layer)

    class Loud(under):  # type: ignore[misc, valid-type]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    layer.__class__ = Loud
    noisy = logits(model)
    for call in (lambda: unwrap(model), lambda: update(model, "linear")):
        with pytest.raises(ConfigError, match=r"gate_proj has become a .*Loud.*Undo what put it"):
            call()
    assert torch.equal(logits(model), noisy) and type(layer) is Loud
    layer.__class__ = under
    clean = logits(unwrap(model))
    assert torch.equal(clean, logits(tiny())) and not torch.equal(clean, noisy)


def test_a_modules_own_class() -> None:
    class Mine(nn.Linear):  # made at run time, and with nothing of its own
        pass

    class Other(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    assert own_class(nn.Linear) is nn.Linear
    assert own_class(Mine) is nn.Linear
    assert own_class(Other) is Other
    assert own_class(type("Mixed", (FSDPModule, Other), {})) is Other

"""What single layers of two engines make of the same numbers, so that bits can be compared.

Whole models can't be: their activations differ in the last place. Here Hugging Face's model runs,
each of its layers' inputs is given to the layer of vLLM's loaded model that carries the same site,
and the results must be equal to the bit.
"""

from __future__ import annotations

from typing import Any

from tests.engines.vllm_engine import Engine, Record, Server

LAYERS = {
    "self_attn.qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "self_attn.o_proj": ("o_proj",),
    "mlp.gate_up_proj": ("gate_proj", "up_proj"),
    "mlp.down_proj": ("down_proj",),
}
"""vLLM's layers of a decoder layer, with the sites that each carries."""


def of_vllm(layers: int) -> dict[str, list[str]]:
    """Names of vLLM's linear layers and head, each with Hugging Face's."""
    found = {}
    for layer in range(layers):
        for name, leaves in LAYERS.items():
            path = f"model.layers.{layer}.{name}"
            found[path] = [f"{path.rpartition('.')[0]}.{leaf}" for leaf in leaves]
    return {**found, "lm_head": ["lm_head"]}


def of_hugging_face(model: Any, prompt: list[int]) -> dict[str, tuple[Any, Any]]:
    """Input [T, K] and output [T, N] of each linear layer and the head in one pass."""
    import torch

    found, hooks = {}, []
    for name, module in model.named_modules():
        if not isinstance(module, torch.nn.Linear):
            continue

        def see(module: Any, args: Any, output: Any, name: str = name) -> None:
            found[name] = args[0].flatten(0, -2), output.flatten(0, -2)

        hooks.append(module.register_forward_hook(see))
    with torch.no_grad():
        model(torch.tensor([prompt]))
    for hook in hooks:
        hook.remove()
    return found


def check_products(engine: Engine, model: Any, prompt: list[int], *, summed: bool = False) -> int:
    """Sees that the layers of an engine give Hugging Face's products, to the bit, on every rank.

    Args:
        engine: whose server is an `Operators`.
        model: wrapped, with the rules that are in force in the engine; of its linear layers all
            have a rule `accumulate`.
        summed: also those of which each rank has a piece of the sum (``partial: true``): the piece
            is the product of the rank's columns, and the layer's result their sum.

    Returns:
        How many numbers were compared.
    """
    import torch
    from torch.nn.functional import linear

    from hetero_plugin.hf import state_of
    from hetero_plugin.operator import Product

    seen = of_hugging_face(model, prompt)
    compared = 0
    for layer, names in of_vllm(len(model.model.layers)).items():
        x = seen[names[0]][0]
        row_parallel = layer.endswith(("o_proj", "down_proj"))
        if row_parallel and summed:
            ranks = engine.ask("layer", name=layer, x=x.tolist(), whole=True)
        else:
            ranks = engine.ask("layer", name=layer, x=x.tolist())
        pieces = []
        for rank, found in enumerate(ranks):
            got = torch.tensor(found["y"], dtype=torch.float64).to(x.dtype)
            assert found["parts"], f"{layer} has no product of its own"
            if row_parallel and summed:
                k = x.shape[-1] // len(ranks)
                mine = slice(rank * k, (rank + 1) * k)
                state, weight = state_of(model), model.get_submodule(names[0]).weight.detach()
                product = Product.of(state, "product", [(names[0], weight.shape[0], 0)])
                own = x[:, mine].contiguous(), weight[:, mine].contiguous()
                right = product(*own, None, linear(*own), state.draw)
                pieces.append(right)
            else:
                columns = [seen[n][1][:, first : first + size] for n, size, first in found["parts"]]
                right = torch.cat(columns, dim=-1)
            assert torch.equal(got[:, : right.shape[1]], right), f"{layer} on rank {rank}"
            compared += right.numel()
        if pieces:
            whole = torch.tensor(ranks[0]["whole"], dtype=torch.float64).to(x.dtype)
            assert torch.equal(whole, pieces[0] + pieces[1]), f"{layer}, summed over ranks"
    return compared


def check_experts(engine: Engine, model: Any, name: str, prompt: list[int]) -> int:
    """Sees that a layer's experts are Hugging Face's under number formats, to the bit.

    Args:
        engine: whose server is an `Operators`.
        model: wrapped, with the rules that are in force in the engine: on the experts' weights one
            with a fixed error.
        name: of the module of experts.

    Returns:
        How many numbers were compared; of other dtypes than float32 those of the weights alone,
        since transformers rounds the results once more for each expert of a token.
    """
    import torch

    model.set_experts_implementation("grouped_mm")
    module, seen = model.get_submodule(name), {}

    def see(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        seen["given"], seen["y"] = (*args, *kwargs.values()), output

    hook = module.register_forward_hook(see, with_kwargs=True)
    with torch.no_grad():
        model(torch.tensor([prompt]))
    hook.remove()
    x, ids, weights = seen["given"]
    given = {"x": x.tolist(), "ids": ids.tolist(), "weights": weights.float().tolist()}
    found = engine.ask("experts", name=name, **given)
    noise = module.__dict__["hetero_noise"]
    assert found["held"] == [digest(noise.gate_up.held._made.q), digest(noise.down.held._made.q)]
    clean = [digest(module.gate_up_proj), digest(module.down_proj)]
    assert not set(found["held"]) & set(clean)
    compared = int(module.gate_up_proj.numel() + module.down_proj.numel())
    if x.dtype == torch.float32:
        got = torch.tensor(found["y"], dtype=torch.float64).to(x.dtype)
        assert torch.equal(got, seen["y"])
        compared += got.numel()
    return compared


class Operators(Server):
    """Answers for single layers of the loaded model."""

    def layer(self, name: str, x: list[list[float]], whole: bool = False) -> list[Record]:
        """Of each rank: the layer's method on x, and which sites' columns it gives.

        Args:
            name: vLLM's, of a linear layer or the head.
            x: [T, K], exact in the model's dtype; a row-parallel layer takes its rank's columns.
            whole: also the layer itself, with the sum over ranks.
        """
        return self.llm.collective_rpc(_layer, args=(name, x, whole))

    def held(self, name: str) -> list[str]:
        """Of each rank: the bits of a layer's weight with its error, as hexadecimal digests of the
        rows of each site."""
        return self.llm.collective_rpc(_held, args=(name,))[0]

    def experts(self, name: str, x: list[list[float]], ids: Any, weights: Any) -> Record:
        """What a layer's experts make of x [T, H], given the router's choice, [T, K] each."""
        return self.llm.collective_rpc(_experts, args=(name, x, ids, weights))[0]


def digest(weight: Any) -> str:
    """Of a tensor's bits."""
    import hashlib

    import torch

    raw = weight.detach().contiguous().view(torch.uint8).numpy().tobytes()
    return hashlib.sha256(raw).hexdigest()


def _layer(worker: Any, name: str, x: list[list[float]], whole: bool) -> Record:
    import torch

    layer = worker.model_runner.get_model().get_submodule(name)
    noise, weight = layer.quant_method.noise, layer.weight
    rows = torch.tensor(x, dtype=torch.float64).to(weight.dtype)
    k = weight.shape[-1]
    mine = rows[:, worker.rank * k : (worker.rank + 1) * k] if rows.shape[-1] > k else rows
    mine = mine.contiguous()
    own = [noise.product] if noise.product else [one.product for one in noise.slices]
    installed = worker.hetero_noise
    with torch.inference_mode(), installed.rows.dummy():
        installed.held.fresh()
        y = layer.quant_method.apply(layer, mine, getattr(layer, "bias", None))
        found = {"y": y.double().tolist(), "parts": [part for one in own for part in one.parts]}
        if whole:
            found["whole"] = layer(mine)[0].double().tolist()
    return found


def _held(worker: Any, name: str) -> list[str]:
    held = worker.model_runner.get_model().get_submodule(name).quant_method.noise.held
    held.fresh()
    assert held.is_current()
    return [digest(held.weight[piece.place]) for piece in held.pieces]


def _experts(worker: Any, name: str, x: list[list[float]], ids: Any, weights: Any) -> Record:
    import torch

    from hetero_plugin.vllm.experts import NoisyExpertsMethod

    (layer,) = (
        module
        for path, module in worker.model_runner.get_model().named_modules()
        if path.startswith(name)
        and isinstance(getattr(module, "quant_method", None), NoisyExpertsMethod)
    )
    method = layer.quant_method
    rows = torch.tensor(x, dtype=torch.float64).to(layer.w13_weight.dtype)
    chosen = torch.tensor(ids, dtype=torch.int32)
    with torch.inference_mode():
        worker.hetero_noise.held.fresh()
        y = method.apply(layer, rows, torch.tensor(weights), chosen, None, None)
    held = method.noise.held
    kept = [] if held is None else [digest(weight) for weight in held.weights]
    return {"y": y.double().tolist(), "held": kept}


class OperatorEngine(Engine):
    """An `Engine` that answers what `Operators` does."""

    server = Operators

"""Which layer of a loaded model carries which sites, and the noise that each is given."""

from __future__ import annotations

import copy
from typing import cast

import torch
from torch import nn
from vllm.distributed import get_tensor_model_parallel_rank
from vllm.model_executor.layers.activation import GeluAndMul, SiluAndMul
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.fused_moe.routed_experts import RoutedExperts
from vllm.model_executor.layers.fused_moe.router.gate_linear import GateLinear
from vllm.model_executor.layers.layernorm import GemmaRMSNorm, RMSNorm
from vllm.model_executor.layers.linear import (
    LinearBase,
    ReplicatedLinear,
    RowParallelLinear,
    UnquantizedLinearMethod,
)
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)

from hetero_plugin.config import ConfigError
from hetero_plugin.operator import Chain, Part, Product
from hetero_plugin.sites import Site, family_of, fused_parts
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm.columns import (
    check_norm,
    check_rows,
    column_offsets,
    equal_share,
    parts_of,
    share_of_heads,
)
from hetero_plugin.vllm.experts import (
    FusedExpertsNoise,
    GemmNoise,
    NoisyExpertsMethod,
    activation_of,
)
from hetero_plugin.vllm.head import HeadNoise, NoisyHeadMethod
from hetero_plugin.vllm.held import HeldWeights
from hetero_plugin.vllm.layers import (
    ActivationNoise,
    AttentionNoise,
    NoisyAttention,
    NoisyGeluAndMul,
    NoisyGemmaRMSNorm,
    NoisyRMSNorm,
    NoisySiluAndMul,
    NormNoise,
    noisy_attention,
)
from hetero_plugin.vllm.linear import (
    LinearNoise,
    NoisyGateLinear,
    NoisyLinearMethod,
    NoisyMethod,
    NoisyRowParallelLinear,
    is_summed,
    linear_noise,
)
from hetero_plugin.vllm.rows import Rows

_GATE_KERNELS = (
    "allow_ll_bf16_gemm",
    "allow_fp32_router_gemm",
    "allow_bf16x3_router_gemm",
    "allow_cublas_router_gemm",
    "allow_rocm_bf16x3_router_gemm",
)
"""A router's kernels that compute past its method."""


class Walker:
    """Walks the modules of a loaded model and sets the noise of those that carry sites."""

    def __init__(self, state: NoiseState, sites: tuple[Site, ...], family: str, rows: Rows) -> None:
        self.state, self.family, self.rows = state, family, rows
        self.sites = {site.name: site for site in sites}
        self.decoder = family_of(family).prefix.partition(".")[0]
        self.carried: set[str] = set()
        self.unmapped: list[tuple[str, str]] = []
        self.heads: list[str] = []
        """Of a pooling model: what is given pooled rows, and stays clean."""
        self.held = HeldWeights()

    def chain(self, stream: str, parts: list[Part]) -> Chain:
        return Chain.of(self.state, stream, parts)

    def selects(self, names: list[str], *streams: str) -> bool:
        """Whether a rule puts error at one of the sites, in one of the streams."""
        return any(s.site.name in names and s.stream in streams for s in self.state.slots)

    def walk(self, model: nn.Module) -> None:
        _unshare_activations(model)
        pooling = bool(getattr(model, "is_pooling_model", False))
        # In vLLM 0.24 a Qwen's tied head is the embedding itself, under a second name.
        head = "lm_head" if pooling else family_of(self.family).engine_head
        tied = dict(model.named_modules(remove_duplicate=False)).get(head)
        for path, module in model.named_modules():
            name = canonical(path, model, self.decoder)
            method = getattr(module, "quant_method", None)
            if isinstance(method, NoisyMethod | NoisyHeadMethod | NoisyExpertsMethod):
                method.attached = True
            outside = not name.startswith(f"{self.decoder}.")
            if pooling and outside and isinstance(module, LinearBase):
                self.heads.append(name)
            elif isinstance(module, ParallelLMHead):
                self.head(name, module)
            elif module is tied and isinstance(module, VocabParallelEmbedding):
                self.head("lm_head", module)
            elif isinstance(module, LinearBase):
                self.linear(name, module, adapted=".base_layer" in path)
            elif isinstance(module, RoutedExperts):
                self.experts(name.removesuffix(".routed_experts"), module)
            elif isinstance(module, RMSNorm | GemmaRMSNorm):
                self.norm(name, module)
            elif isinstance(module, SiluAndMul | GeluAndMul):
                self.activation(name, module)
            elif isinstance(module, Attention):
                self.attention(name, module)

    def claim(self, name: str, *kinds: str) -> bool:
        """Whether a layer carries a site of these kinds; one that carries none is noted."""
        site = self.sites.get(name)
        if site is None or site.kind not in kinds:
            self.unmapped.append((kinds[0], name))
            return False
        self.carried.add(name)
        return True

    def linear(self, name: str, layer: LinearBase, adapted: bool) -> None:
        """
        Args:
            adapted: a LoRA wrapper calls the layer's method, and not the layer.
        """
        plain = layer.quant_method
        if type(plain) is UnquantizedLinearMethod and isinstance(layer, ReplicatedLinear):
            # vLLM builds Qwen2-MoE's gates without telling them the quantization.
            layer.quant_method = NoisyLinearMethod.around(plain, layer.output_size)
        parent, _, leaf = name.rpartition(".")
        names = [f"{parent}.{part}" for part in fused_parts(self.family, leaf) or (leaf,)]
        if not all([self.claim(one, "linear", "router") for one in names]):
            return
        method = cast(NoisyMethod, layer.quant_method)
        noise = linear_noise(self.state, name, layer, self._parts_of(name, layer, names), method)
        if not noise:
            return
        if noise.output and is_summed(layer) and not self.state.config.partial:
            _put_outside(name, layer, noise, adapted)
        if isinstance(layer, GateLinear):
            _put_on_gate(name, layer, noise)
        method.noise = noise
        if noise.held is not None:
            self.held.all.append(noise.held)

    def _parts_of(self, name: str, layer: LinearBase, names: list[str]) -> list[Part]:
        """The columns that a layer holds of its sites.

        Raises:
            ConfigError: its method does not hold that many parts, or they have other columns than
                the site table says.
        """
        method = layer.quant_method
        sizes = method.part_sizes if isinstance(method, NoisyMethod) else []
        outputs = parts_of(layer, name, names, sizes, list(column_offsets(layer, sizes)))
        for one, width, _ in outputs:
            whole = width if isinstance(layer, RowParallelLinear | ReplicatedLinear) else None
            if whole is not None and whole != self.sites[one].features:
                raise ConfigError(
                    f"hetero_noise: {one} has {whole} columns in the engine and "
                    f"{self.sites[one].features} in the site table"
                )
        return outputs

    def experts(self, name: str, layer: RoutedExperts) -> None:
        gate_up, act, down = (f"{name}.{leaf}" for leaf in ("gate_up_proj", "act_fn", "down_proj"))
        claims = [self.claim(gate_up, "linear"), self.claim(act, "activation")]
        if not all([*claims, self.claim(down, "linear")]):
            return
        if not self.selects([gate_up, act, down], "input", "output", "weight"):
            return
        activation = activation_of(layer, name)
        ranks, rank = layer.moe_config.tp_size, layer.moe_config.tp_rank
        width, h = self.sites[act].features // ranks, self.sites[down].features
        w13, w2 = layer.get_parameter("w13_weight"), layer.get_parameter("w2_weight")
        shapes = [tuple(w13.shape[1:]), tuple(w2.shape[1:])]
        if shapes != [(2 * width, h), (h, width)]:
            raise ConfigError(
                f"hetero_noise: the experts of {name} have matrices {shapes[0]} and {shapes[1]}, "
                f"and {(2 * width, h)} and {(h, width)} in the site table"
            )
        first, partial = rank * width, self.state.config.partial
        outputs = self.chain("output", [(down, h, 0)])
        if ranks > 1 and outputs and not partial:
            raise ConfigError(
                f"hetero_noise: {name} leaves its sum over {ranks} tensor-parallel ranks to a "
                "later layer, so there is no place for the error of down_proj's output; "
                "partial=true puts it on each rank's sum; or exclude '*.mlp.experts.down_proj'"
            )
        if ranks > 1 and outputs:
            outputs = Chain.of(self.state, "output", [(down, h, 0)], share=rank)
        up = self.sites[act].features
        columns = [(gate_up, 2 * up, 0)]  # in one piece: an error may depend on the whole row
        if ranks > 1:
            columns = [(gate_up, width, first), (gate_up, width, up + first)]
        mine = torch.arange(first, first + width, device=self.state.device)
        experts = torch.arange(w13.shape[0], device=self.state.device)[:, None]
        weight = self.chain("weight", [(gate_up, h, 0)])
        check_rows(self.state, weight, 2 * width)
        noise = FusedExpertsNoise(
            self.state,
            GemmNoise(
                self.chain("input", [(gate_up, h, 0)]),
                weight,
                self.chain("output", columns),
                (experts * (2 * up) + torch.cat([mine, up + mine])).reshape(-1),
            ),
            self.chain("output", [(act, width, first)]),
            GemmNoise(
                self.chain("input", [(down, width, first)]),
                self.chain("weight", [(down, width, first)]),
                outputs,
                torch.arange(experts.numel() * h, device=self.state.device),
            ),
            activation,
        )
        method = layer.quant_method
        assert isinstance(method, NoisyExpertsMethod)
        noise.hold(name, layer, method)
        method.noise = noise
        if noise.held is not None:
            self.held.all.append(noise.held)

    def head(self, name: str, layer: VocabParallelEmbedding) -> None:
        if not self.claim(name, "lm_head"):
            return
        if type(layer.quant_method) is UnquantizedEmbeddingMethod and not isinstance(
            layer, ParallelLMHead
        ):
            tied = NoisyHeadMethod()  # looking words up in it stays as it was
            tied.attached = True
            layer.quant_method = tied
        method = layer.quant_method
        if not isinstance(method, NoisyHeadMethod):
            raise ConfigError(f"hetero_noise: {name} has the method {type(method).__name__}")
        shard = layer.shard_indices
        first, end = shard.org_vocab_start_index, shard.org_vocab_end_index
        k = layer.embedding_dim
        noise = HeadNoise(
            self.state,
            output=self.chain("output", [(name, end - first, first)]),
            input=self.chain("input", [(name, k, 0)]),
            weight=self.chain("weight", [(name, k, 0)]),
            weight_rows=torch.arange(first, end, dtype=torch.int64, device=self.state.device),
            rows=self.rows,
            product=Product.of(self.state, "product", [(name, end - first, first)]),
        )
        noise.hold(name, layer)
        if noise:
            method.noise = noise
        if noise.held is not None:
            self.held.all.append(noise.held)

    def norm(self, name: str, layer: RMSNorm | GemmaRMSNorm) -> None:
        if not self.claim(name, "norm"):
            return
        aqn = self.state.aqn
        offset = aqn.view(name) if aqn is not None and name in aqn else None
        site, width, first = self.sites[name], self.sites[name].features, 0
        if site.heads > 1:  # a norm of each head: this rank has some of the heads
            width, first = share_of_heads(site, layer.weight.numel())
        heads = width // layer.weight.numel() if site.heads > 1 else 1
        output = Chain.of(self.state, "output", [(name, width, first)], heads=heads)
        if output or offset is not None:
            check_norm(site, self.family)
            noisy = NoisyGemmaRMSNorm if isinstance(layer, GemmaRMSNorm) else NoisyRMSNorm
            layer.__class__ = noisy
            in_dtype = aqn is not None and aqn.in_dtype
            cast(NoisyRMSNorm, layer).noise = NormNoise(self.state, output, offset, in_dtype)

    def activation(self, name: str, layer: SiluAndMul | GeluAndMul) -> None:
        parent, _, leaf = name.rpartition(".")
        (part,) = fused_parts(self.family, leaf)
        name = f"{parent}.{part}"
        if not self.claim(name, "activation"):
            return
        width, offset = equal_share(self.sites[name].features)
        output = self.chain("output", [(name, width, offset)])
        if not output:
            return
        if isinstance(layer, GeluAndMul):
            word = "gelu_tanh" if layer.approximate == "tanh" else "gelu"
            layer.__class__ = NoisyGeluAndMul
        else:
            word = "silu"
            layer.__class__ = NoisySiluAndMul
        noise = ActivationNoise(self.state, output, word)
        cast(NoisySiluAndMul, layer).noise = noise

    def attention(self, name: str, layer: Attention) -> None:
        site = name.rpartition(".")[0]
        if not self.claim(site, "attention"):
            return
        width = layer.num_heads * layer.head_size_v
        output = self.chain("output", [(site, width, get_tensor_model_parallel_rank() * width)])
        if output:
            layer.__class__ = noisy_attention(type(layer))
            cast(NoisyAttention, layer).noise = AttentionNoise(self.state, output)


def canonical(path: str, model: nn.Module, decoder: str) -> str:
    """A module's name, which begins at the decoder.

    Args:
        path: of the module in ``model``.
        model: what vLLM has loaded: a decoder under some head, or (embedding with Gemma 3) a
            decoder itself.
        decoder: the decoder's name.
    """
    name = path.replace(".base_layer", "")  # a LoRA wrapper holds the layer under it
    inside = name.partition(".")[0] in ("layers", "norm")
    return f"{decoder}.{name}" if inside and "layers" in model._modules else name


def _unshare_activations(model: nn.Module) -> None:
    """Gives every MLP an activation of its own.

    vLLM keeps one GeluAndMul for all layers of all models of a process; made noisy, it would have
    one layer's noise in each of them, other models included.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, SiluAndMul | GeluAndMul):
                setattr(parent, name, copy.copy(child))


def _put_outside(name: str, layer: LinearBase, noise: LinearNoise, adapted: bool) -> None:
    """Puts the error of an output after the sum over the ranks, the same on each of them.

    Raises:
        ConfigError: the layer does not make that sum.
    """
    if not cast(RowParallelLinear, layer).reduce_results or adapted:
        why = "a LoRA layer" if adapted else "a later layer"
        raise ConfigError(
            f"hetero_noise: {name} leaves its sum over {layer.tp_size} tensor-parallel ranks to "
            f"{why}, so there is no place for the error of its output; partial=true puts it on "
            "each rank's sum"
        )
    noise.outside = True
    layer.__class__ = NoisyRowParallelLinear


def _put_on_gate(name: str, layer: GateLinear, noise: LinearNoise) -> None:
    """Puts a router's error where it runs: its kernels may compute past its method."""
    kernels = [kernel for kernel in _GATE_KERNELS if getattr(layer, kernel, False)]
    if kernels and (noise.input or noise.slices or noise.held is not None):
        raise ConfigError(
            f"hetero_noise: {name} computes with kernels of its own here "
            f"({', '.join(kernels)}), so only its output can have error"
        )
    if noise.output:
        noise.outside = True
        layer.__class__ = NoisyGateLinear

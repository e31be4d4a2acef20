"""The LM head of a TRL trainer: TRL multiplies by its weight in a kernel of its own, in which there
is no error. Where the spec selects the head, it has to run as a layer.

B batch, T tokens, V vocabulary.
"""

from __future__ import annotations

import functools
import types
from typing import Any

import torch
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.hf import state_of
from hetero_plugin.hf.wrap import attachment_of

__all__ = ["give_noisy_head"]


def _scored(logits_BTV: Tensor, labels_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each label and entropy, float32 [B, T]."""
    log_probs = torch.log_softmax(logits_BTV.float(), dim=-1)
    chosen = log_probs.gather(-1, labels_BT.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return chosen, -(log_probs.exp() * log_probs).sum(-1)


def _keep_float32(base: Any) -> None:
    """``cast_lm_head_to_fp32``: TRL gives the head a forward of its own, past the noisy one.

    Instead, what the head reads is cast; its weights are float32 by then.
    """
    head = base.get_output_embeddings()
    if getattr(vars(head).get("forward"), "__name__", "") == "cast_forward_to_fp32":
        del head.__dict__["forward"]
        head.register_forward_pre_hook(_cast)


def _cast(head: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return (args[0].float(), *args[1:])


def give_noisy_head(model: Any, temperature: float) -> None:
    """Replaces TRL's fused head of a wrapped model where the spec selects the head.

    While the head's scales are all 0 the fused head runs, which is TRL's own arithmetic.

    Args:
        model: of a TRL trainer, perhaps with PEFT adapters.
        temperature: what the trainer divides logits by.

    Raises:
        ConfigError: TRL does not fuse as it did.
    """
    attachment = attachment_of(model)
    assert attachment is not None
    heads = attachment.context.heads
    if not heads:
        return
    from trl.trainer.utils import FusedCausalLMOutput

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    fused: Any = base.__dict__.get("forward")
    if "fused_lm_head" not in getattr(getattr(fused, "__code__", None), "co_varnames", ()):
        raise ConfigError(
            "the spec selects lm_head, and this TRL does not replace the model's forward by its "
            "fused head as trl 1.16 does: exclude lm_head from the rules"
        )

    _keep_float32(base)

    @functools.wraps(fused.__func__)  # with its signature, which `generate` looks at
    def forward(self: Any, *args: Any, fused_lm_head: bool = False, **kwargs: Any) -> Any:
        nonzero = state_of(self).nonzero
        if not fused_lm_head or not any(nonzero[slot] for slot in heads):
            return fused(*args, fused_lm_head=fused_lm_head, **kwargs)
        if kwargs.get("shift_labels") is not None:
            raise ConfigError("error in lm_head under context parallelism is not there; exclude it")
        labels = kwargs.pop("labels")[:, 1:]
        count = kwargs.pop("num_items_in_batch", None)
        out = fused(*args, fused_lm_head=False, use_cache=False, **kwargs)
        mask = labels != -100
        chosen, entropy = _scored(out.logits[:, :-1] / temperature, labels)
        chosen, entropy = chosen.masked_fill(~mask, 0), entropy.masked_fill(~mask, 0)
        loss = -chosen.sum() / (mask.sum().clamp(min=1) if count is None else count)
        aux = getattr(out, "aux_loss", None)
        if aux is not None:
            text = self.config.get_text_config()
            loss = loss + getattr(text, "router_aux_loss_coef", 0.0) * aux
        return FusedCausalLMOutput(
            loss=loss, log_probs=chosen, entropy=entropy, label_mask=mask, aux_loss=aux
        )

    base.forward = types.MethodType(forward, base)

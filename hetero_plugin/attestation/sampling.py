"""Tokens that two distributions give to the same random numbers, drawn as samplers draw them.

The token of the largest logit plus Gumbel number is a sample of the softmax. Numbers are addressed
by seed, prompt, position and token id, as everything random in this package; but one is needed for
each id of a vocabulary at each token of a text, so they come from a mixer of 32 bits whose keys are
those of `hetero_plugin.random`, not from its generator, which would cost more than the model.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

from hetero_plugin.random import mix64, seed_base, signed

_FEW = 16  # tokens at a time: what is drawn stays in the cache
_LAST = 1 - 2**-24  # the largest uniform under 1 in float32
_FIRST, _SECOND = 0x7FEB352D, 0x846CA68B - (1 << 32)  # Wellons' mixer, "lowbias32"


def same_sample(clean: Tensor, noisy: Tensor, targets: Tensor, seed: int) -> np.ndarray:
    """Whether both distributions give one token to the same random numbers, at temperature 1.

    For distributions p and q both are v with probability 1 / Σ_w max(p_w / p_v, q_w / q_v).

    Args:
        clean: logits [T, V], any dtype.
        noisy: logits [T, V] of the other model.
        targets: int64 [T], the text's next tokens: of what is read, the address's prompt.
        seed: of the sampling.

    Returns:
        float64 [T], 1 where the tokens are equal.
    """
    found: list[Tensor] = []
    for start in range(0, len(targets), _FEW):
        at = slice(start, min(start + _FEW, len(targets)))
        drawn = gumbel(seed, targets, range(at.start, at.stop), clean.shape[-1])
        first = (clean[at] + drawn).argmax(-1)
        found.append(first == drawn.add_(noisy[at]).argmax(-1))
    return torch.cat(found).double().cpu().numpy()


def gumbel(seed: int, prompt: Tensor, positions: range, vocabulary: int) -> Tensor:
    """The numbers that sampling adds to log-probabilities.

    Args:
        seed: of the sampling.
        prompt: int64 ids of the text that is read; other texts have other numbers.
        positions: of the tokens that are drawn.
        vocabulary: token ids from 0 on.

    Returns:
        float32 [len(positions), vocabulary], on the prompt's device: functions of seed, prompt,
        position and token id alone.
    """
    content = prompt.detach().cpu().to(torch.int64).numpy().astype("<i8").tobytes()
    text = int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    keys = [mix64(mix64(text ^ seed_base(seed)) + position) for position in positions]
    halves = [[signed(half << 32) >> 32 for half in (key, key >> 32)] for key in keys]
    low, high = torch.tensor(halves, dtype=torch.int32, device=prompt.device).T[..., None]
    token = torch.arange(vocabulary, dtype=torch.int32, device=prompt.device)
    # A key on either side of each mixing: rows of numbers are no permutations of each other.
    bits = _mix(_mix(token) ^ low)
    bits = _mix(bits ^ high)
    # 32 bits of a uniform, kept where they matter: a rare token is drawn at a number near 0.
    uniform = (((bits >> 1) & 0x7FFFFFFF) * 2.0 + (bits & 1) + 0.5).mul_(2**-32)
    return uniform.clamp_(max=_LAST).neg_().log1p_().neg_().log_().neg_()


def _mix(word: Tensor) -> Tensor:
    """A bijection of 32 bits, of int32 tensors."""
    word = word ^ ((word >> 16) & 0xFFFF)
    word *= _FIRST
    word ^= (word >> 15) & 0x1FFFF
    word *= _SECOND
    word ^= (word >> 16) & 0xFFFF
    return word

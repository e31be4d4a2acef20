"""What the operator can't be put on, said in words rather than by whatever breaks first."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["DTYPES", "UnsupportedTensor", "check_dtype", "check_transforms", "no_vmap"]

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
"""What an error can be put on. It is computed in float32 and rounded to one of these."""


class UnsupportedTensor(TypeError):
    """A tensor that can't have error as the specification means it."""


def check_dtype(dtype: torch.dtype, where: str) -> None:
    """Raises UnsupportedTensor for a dtype that can't have error.

    Args:
        dtype: of the clean value.
        where: the site, for the message.
    """
    if dtype not in DTYPES:
        known = ", ".join(str(one).removeprefix("torch.") for one in DTYPES)
        raise UnsupportedTensor(
            f"hetero_noise: {where} is {str(dtype).removeprefix('torch.')}; error is computed in "
            f"float32, for tensors of {known}. Cast the model to one of these (model.float()), "
            "leave the site out of the spec, or switch the noise off with disabled(model)"
        )


def check_transforms(stream: str) -> None:
    """Raises UnsupportedTensor where torch.func would lose error, or stop with words of its own.

    Error on values under `vmap` is left to the operator, which knows whether they are batched.

    Args:
        stream: of the error that is about to be added.
    """
    top = torch._C._functorch.peek_interpreter_stack()
    if top is None:
        return
    if stream.startswith("grad"):
        # Inside a transform nobody can see whether a gradient will be asked for.
        if torch.is_grad_enabled():
            raise UnsupportedTensor(
                "hetero_noise: a layer with error on its gradients ran under torch.func (vmap, "
                "grad, jvp), which hides them: it would be lost. Use loss.backward() or "
                "torch.autograd.grad, or torch.no_grad() where no gradient is wanted"
            )
    elif top.key() != torch._C._functorch.TransformType.Vmap:
        raise UnsupportedTensor(
            "hetero_noise: a noisy layer ran under torch.func.grad, jvp or jacfwd, which have no "
            "rule for its error. Use loss.backward() or torch.autograd.grad, which pass gradients "
            "straight through, or switch the noise off with disabled(model)"
        )


def no_vmap(*args: Any) -> Any:
    """Raises UnsupportedTensor: the vmap rule of every operator of ours."""
    raise UnsupportedTensor(
        "hetero_noise: a noisy layer ran under torch.func.vmap (an ensemble of stacked weights, "
        "per-sample gradients, jacrev). Error has the address of a token in one forward pass, and "
        "the entries of a vmapped dimension have none of their own: all would get one error. Call "
        "the model once for each entry, or switch the noise off with disabled(model)"
    )

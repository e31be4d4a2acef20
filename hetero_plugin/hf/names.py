"""Where a model's decoder is, and what its modules are called: names begin at the decoder.

The same decoder has the same names, and so the same noise, whatever is on top of it: a language
model, a classifier, a reward or value model, PEFT, or nothing.
"""

from __future__ import annotations

import re

from torch import nn

from hetero_plugin.config import ConfigError

# What wrappers put into module paths; the canonical name is the plain model's.
_WRAPPERS = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module|base_layer)(?:\.|$)"
)
# PEFT's copies of a module, of which one runs in its place, and the module itself beside them.
_SAVED = re.compile(r"\.(?:(?:modules_to_save|ln_tuning_layers)\.[^.]+|original_module)(?=\.|$)")
_INSIDE = re.compile(rf"{_SAVED.pattern}|\.base_layer(?=\.|$)")
_AT_END = re.compile(rf"(?:{_INSIDE.pattern})$")
PREFIX = "model"
"""The decoder's name."""


def decoder_of(model: nn.Module) -> tuple[str, nn.Module]:
    """Path and module of what takes input_ids and owns the list of decoder layers.

    Raises:
        ConfigError: there is none.
    """
    for path, module in model.named_modules():
        # Its own: PEFT, FSDP and the compiler's wrappers answer for what is inside them.
        own = module._modules
        if isinstance(own.get("layers"), nn.ModuleList) and "embed_tokens" in own:
            return path, module
    raise ConfigError(
        f"{type(model).__name__} has no decoder with `embed_tokens` and `layers`; hetero_noise "
        "wraps decoder language models of transformers (Qwen2, Llama, Mistral, …)"
    )


def layers_of(decoder: nn.Module) -> nn.ModuleList:
    """The decoder layers of what `decoder_of` found."""
    layers = decoder.layers
    assert isinstance(layers, nn.ModuleList)
    return layers


def _shared(path: str, decoder: str) -> list[str]:
    """The parts that a path and the decoder's have in common at their beginning."""
    parts = []
    for one, other in zip(path.split("."), decoder.split("."), strict=False):
        if not one or one != other:
            break
        parts.append(one)
    return parts


def is_inside(path: str, decoder: str) -> bool:
    """Whether a path is the decoder's, or of something in it."""
    return not decoder or path == decoder or path.startswith(f"{decoder}.")


def owner_path(path: str, decoder: str) -> str:
    """The deepest module that has both a module outside of the decoder and the decoder."""
    return ".".join(_shared(path, decoder))


def canonical_name(path: str, decoder: str) -> str:
    """The site name of a module path.

    Of the decoder's modules: ``model.`` and the path from the decoder. Of others (heads): the path
    from the deepest module that has both. Without what torch, accelerate, PEFT or FSDP add to it.

    Args:
        path: as `named_modules` gives it.
        decoder: the decoder's path in the same model.

    Example::

        canonical_name("base_model.model.model.layers.0.mlp", "base_model.model.model")
        # "model.layers.0.mlp"
        canonical_name("pretrained_model.lm_head", "pretrained_model.model")  # "lm_head"
        canonical_name("v_head.summary", "pretrained_model.model")  # "v_head.summary"
    """
    if is_inside(path, decoder):
        below = path[len(decoder) :].strip(".")
        name = f"{PREFIX}.{below}" if below else PREFIX
    else:
        shared = owner_path(path, decoder)
        name = path[len(shared) :].strip(".")
    return _WRAPPERS.sub("", _SAVED.sub("", name)).rstrip(".")


def outside_peft(path: str) -> str:
    """A path without what PEFT puts into it: the same of a layer and of PEFT's copies of it."""
    return _INSIDE.sub("", path)


def called_at(path: str) -> str:
    """Where a layer is called: its path, or that of what PEFT put around it."""
    while (outer := _AT_END.sub("", path)) != path:
        path = outer
    return path

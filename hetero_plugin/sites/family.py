"""What is known of a model family: the types of the table in families.py."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from hetero_plugin.sites.sizes import Config, Sizes

__all__ = ["Entry", "Family", "Names"]


@dataclass(frozen=True)
class Entry:
    """One operator: its path below the layer (or the model), its kind, and its sizes as names of
    the family's ``sizes``."""

    path: str
    kind: str
    out: str
    into: str | None = None
    heads: str | None = None
    """A norm of each head: how many heads share its weight."""


@dataclass(frozen=True)
class Names:
    """What modules of a Hugging Face model are by their names, where their class does not tell.

    Names are last parts of module paths. Sizes are taken from the modules themselves.
    """

    attention_output: tuple[str, ...] = ("o_proj",)
    """Linear layers whose input is softmax·V, the site of the module around them."""
    routers: tuple[str, ...] = ("shared_expert_gate",)
    """Linear layers of the kind router: they weigh experts."""
    activations: tuple[str, ...] = ("act_fn", "activation_fn")
    """Activations of an MLP."""
    gates: Mapping[str, int] = field(
        default_factory=lambda: {"gate_proj": 1, "fc1": 1, "gate_up_proj": 2}
    )
    """Linear layers beside an activation -> how many times its width they have."""
    projected: Mapping[str, str] = field(
        default_factory=lambda: {"q_norm": "q_proj", "k_norm": "k_proj"}
    )
    """Norms of what a linear layer beside them gives, as a whole or head by head -> that layer."""
    heads_first: bool | None = None
    """Whether a norm of each head is given [batch, heads, tokens, features] (True) or [batch,
    tokens, heads, features] (False); None: its input's shape decides, where it can."""
    before_experts: str = ""
    """The norm before the router and experts: AQN's word ``norm`` means it alone."""


@dataclass(frozen=True)
class Family:
    """All that is known of a model family. A further family is one more entry in FAMILIES."""

    architectures: tuple[str, ...]
    sizes: Callable[[Config], Sizes]
    """Reads the sizes that entries name from a config.json."""
    per_layer: tuple[Entry, ...]
    """The sites of a layer, in the order of the forward pass."""
    outside: tuple[Entry, ...]
    fused: Mapping[str, tuple[str, ...]]
    """Module of a serving engine -> the sites' modules that it is, in column order, where their
    names differ: several in one (``qkv_proj``), or one under another name."""
    sparse_layer: tuple[Entry, ...] = ()
    """The sites of a layer that has experts, for families that have such layers."""
    sparse: Callable[[Config], Iterable[int]] = field(default=lambda config: ())
    """The numbers of the layers that have experts."""
    names: Names = field(default_factory=Names)
    prefix: str = "model.layers"
    engine_head: str = "lm_head"
    """The module of vLLM's model that multiplies for lm_head, which may be its embedding."""

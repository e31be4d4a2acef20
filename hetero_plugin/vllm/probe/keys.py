"""What the layers of a worker's model draw from: the keys of rows and of sites, as they are there.

A knock-in sees that a site perturbs the output. With one key for all rows, or for all layers, it
would see the same.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from hetero_plugin.operator import Chain
from hetero_plugin.state import NoiseState

_DEPTH = 6  # module -> method -> noise -> list -> slice -> list -> chain
_OURS = "hetero_plugin."


def chains(model: nn.Module) -> Iterator[Chain]:
    """Every chain that some layer of ``model`` holds, in whatever attribute."""
    seen: set[int] = set()
    for module in model.modules():
        yield from _within(list(vars(module).values()), seen, _DEPTH)


def _within(values: list[object], seen: set[int], depth: int) -> Iterator[Chain]:
    for value in values:
        ours = type(value).__module__.startswith(_OURS)
        # A module of our own may hang on a method, where the model does not list it.
        if id(value) in seen or isinstance(value, NoiseState):
            continue
        if isinstance(value, nn.Module) and not ours:
            continue
        if isinstance(value, Chain):
            seen.add(id(value))
            yield value
        elif depth and isinstance(value, list | tuple):
            yield from _within(list(value), seen, depth - 1)
        elif depth and isinstance(value, dict):
            yield from _within(list(value.values()), seen, depth - 1)
        elif depth and ours:
            seen.add(id(value))
            yield from _within(list(getattr(value, "__dict__", {}).values()), seen, depth - 1)


def shared_keys(model: nn.Module) -> list[str]:
    """Pairs of sites, or of points of one, that draw the same error: ``"a and b"``."""
    owner: dict[int, tuple[str, str]] = {}
    found = []
    for chain in chains(model):
        for stage in chain.stages:
            for (name, _, _), row in zip(chain.parts, stage.segments.tolist(), strict=True):
                if not row[3]:  # no rule selects this part
                    continue
                mine = (name, chain.stream)
                other = owner.setdefault(row[1], mine)
                if other != mine:
                    found.append(f"{' '.join(other)} and {' '.join(mine)}")
    return found

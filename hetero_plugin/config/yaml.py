"""YAML to data, weighed before it unfolds.

A few hundred bytes of aliases and merge keys can stand for more than memory holds, and a number may
be written so that reading it takes minutes. So the text goes through three gates, each of which
costs no more than the text is long:

1. nodes and depth are counted while the parser reads them, and it stops at the limit;
2. on the finished graph, where an alias is still one pointer, every node's unfolded size is worked
   out from its children's, what merge keys (``<<``) copy included;
3. only then, with everything known to be small and of a plain type, Python's objects are made.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from hetero_plugin.config.problems import ConfigError

__all__ = ["load"]

_MOST_CHARACTERS = 200_000
"""Of the text, and of what it unfolds to."""
_LONGEST_NUMBER = 100
_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("null", "bool", "int", "float", "str"))
_PLAIN = {"scalar": _SCALARS, "sequence": {_TAG + "seq"}, "mapping": {_TAG + "map"}}
_MERGE = _TAG + "merge"
# YAML 1.1 reads 1:30 as 90 and 010 as 8. Whoever writes them in a specification means neither.
_SURPRISING = re.compile(r"[-+]?0[0-9_]*[0-7]|.*:.*")


def load(text: str, most_values: int, most_levels: int) -> Any:
    """The data of one YAML document.

    Args:
        most_values: how many values it may hold, aliases and merge keys unfolded.
        most_levels: how deep they may be nested, likewise.

    Raises:
        ConfigError: not YAML, too much of it, a tag of another type than plain data, a number too
            long or in base 60 or 8, a key twice in one mapping.
        ImportError: no PyYAML.
    """
    import yaml

    too_much = ConfigError(
        f"too large or nested: more than {most_values} values, {most_levels} levels or "
        f"{_MOST_CHARACTERS} characters, aliases and merge keys (<<) unfolded."
    )
    if len(text) > _MOST_CHARACTERS:
        raise too_much

    class Loader(yaml.SafeLoader):
        nodes = 0
        level = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.nodes += 1
            if self.nodes > most_values or self.level > most_levels:
                raise too_much
            self.level += 1
            try:
                return super().compose_node(parent, index)
            finally:
                self.level -= 1

    try:
        loader = Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None
        _Weights(most_values, most_levels, too_much).of(root)
        return loader.construct_document(root)
    except ConfigError:
        raise
    except RecursionError:
        raise too_much from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError(f"not valid YAML: {where}{what[:200]}.") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: %YAML with 5,000 digits
        raise ConfigError(f"not valid YAML: {' '.join(str(error).split())[:200]}.") from None
    except (LookupError, ArithmeticError, TypeError):
        # Text that its explicit tag does not fit, in PyYAML: !!bool x, !!int "".
        raise ConfigError("not valid YAML: a value does not fit the tag before it.") from None


class _Weights:
    """Unfolded sizes of nodes: each node is looked at once, however many aliases lead to it."""

    def __init__(self, most_values: int, most_levels: int, too_much: ConfigError) -> None:
        self.most_values, self.most_levels, self.too_much = most_values, most_levels, too_much
        # id -> values, characters, levels; None while the node's own children are being weighed.
        self.known: dict[int, tuple[int, int, int] | None] = {}

    def of(self, node: Any) -> tuple[int, int, int]:
        """Values, characters and levels of ``node``, unfolded.

        Raises:
            ConfigError: more than there may be, a node inside itself, or a node that is no plain
                data.
        """
        if id(node) in self.known:
            weight = self.known[id(node)]
            if weight is None:  # an alias to what it stands in: without end
                raise self.too_much
            return weight
        self.known[id(node)] = None
        weight = self._weigh(node)
        if (
            weight[0] > self.most_values
            or weight[1] > _MOST_CHARACTERS
            or weight[2] > self.most_levels
        ):
            raise self.too_much
        self.known[id(node)] = weight
        return weight

    def _weigh(self, node: Any) -> tuple[int, int, int]:
        if node.tag not in _PLAIN[node.id]:
            raise ConfigError(
                f"not valid YAML for a specification: {_place(node)} is a {node.id} of the type "
                f"{node.tag.replace(_TAG, '!!')[:60]}; plain data only: text, numbers, true, "
                "false, null, lists and mappings. Put text that is read as another type in quotes."
            )
        if node.id == "scalar":
            _check_number(node)
            return 1, len(node.value), 0
        if node.id == "mapping":
            children = list(self._children(node))
        else:
            children = [self.of(child) for child in node.value]
        values = 1 + sum(child[0] for child in children)
        characters = sum(child[1] for child in children)
        return values, characters, 1 + max((child[2] for child in children), default=0)

    def _children(self, node: Any) -> Iterator[tuple[int, int, int]]:
        seen: set[str] = set()
        for key, value in node.value:
            if key.tag == _MERGE:
                # Each mapping named here is copied into this one, pair by pair.
                yield from map(self.of, value.value if value.id == "sequence" else [value])
                continue
            if key.id == "scalar":
                # What a merge brings may be given again; what stands here twice would be lost once.
                if key.value in seen:
                    raise ConfigError(
                        f"the key {key.value!r} is given twice; one of the two would be lost."
                    )
                seen.add(key.value)
            yield self.of(key)
            yield self.of(value)


def _check_number(node: Any) -> None:
    if not node.tag.endswith((":int", ":float")):
        return
    if len(node.value) > _LONGEST_NUMBER:
        raise ConfigError(
            f"not valid YAML for a specification: {_place(node)} is a number of "
            f"{len(node.value)} characters; at most {_LONGEST_NUMBER}."
        )
    if _SURPRISING.fullmatch(node.value):
        base = 60 if ":" in node.value else 8
        raise ConfigError(
            f"{_place(node)}: {node.value} is a number in base {base} to YAML; write it in base "
            "10, or in quotes if it is text."
        )


def _place(node: Any) -> str:
    return f"line {node.start_mark.line + 1}, column {node.start_mark.column + 1}"

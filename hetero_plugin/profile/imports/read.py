"""Reads what other tools dumped: safetensors files with agreed names, and folders of msProbe.

T rows, K inputs and N outputs of a row.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetero_plugin.config import ConfigError

__all__ = ["Dump", "Dumped", "read"]

KINDS = ("linear", "lm_head", "norm", "activation", "attention")
_ORDER = (
    *("input_layernorm", "q_proj", "q_norm", "k_proj", "k_norm", "v_proj", "self_attn", "o_proj"),
    *("post_attention_layernorm", "gate_proj", "act_fn", "up_proj", "down_proj", "norm", "lm_head"),
)
_MODULE = re.compile(r"Module\.(?:\d+\.)?(?P<path>.+)\.(?P<cls>[^.]+)\.forward\.(?P<call>\d+)")


@dataclass(frozen=True)
class Dumped:
    """One operator in a dump.

    Args:
        name: of its site.
        kind: linear, lm_head, norm, activation, attention.
        output: gives [T, N].
        input: gives [T, K]; None where the dump has none.
    """

    name: str
    kind: str
    output: Callable[[], Tensor]
    input: Callable[[], Tensor] | None


@dataclass(frozen=True)
class Dump:
    """What a tool wrote on one machine.

    Args:
        path: what the user gave.
        tool: safetensors or msprobe.
        operators: name -> operator, in the order of the dump.
    """

    path: Path
    tool: str
    operators: dict[str, Dumped]


def read(path: Path) -> Dump:
    """A dump's operators; tensors are read when they are asked for.

    Args:
        path: a .safetensors file, a dump.json of msProbe, or a folder above one.

    Raises:
        ConfigError: it is none of these, or can't be read.
    """
    if path.is_dir():
        return _msprobe(path, _dump_json(path))
    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file or folder")
    if path.suffix == ".json":
        return _msprobe(path, path)
    return _safetensors(path)


def _rows(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1, tensor.shape[-1])


def _safetensors(path: Path) -> Dump:
    """``NAME.output`` and, if it is there, ``NAME.input``; metadata ``NAME.kind`` where need be."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            keys, said = list(file.keys()), file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise ConfigError(f"{path}: not a safetensors file, or cut short: {error}") from None

    def tensor(key: str) -> Tensor:
        with safe_open(path, "pt") as file:
            value: Tensor = file.get_tensor(key)
            return _rows(value)

    found = {}
    for key in keys:
        name, _, part = key.rpartition(".")
        if part != "output" or not name:
            continue
        kind = said.get(f"{name}.kind") or _kind(name)
        if kind not in KINDS:
            raise ConfigError(
                f"{path}: what sort of operator {name} is can't be told by its name; give the file "
                f"the metadata {name + '.kind'!r}, one of {', '.join(KINDS)}"
            )
        reads = f"{name}.input"
        found[name] = Dumped(
            name,
            kind,
            lambda key=key: tensor(key),  # type: ignore[misc]
            (lambda key=reads: tensor(key)) if reads in keys else None,  # type: ignore[misc]
        )
    if not found:
        raise ConfigError(
            f"{path}: holds {len(keys)} tensors, none of which is called SITE.output, such as "
            "'model.layers.0.mlp.down_proj.output'"
        )
    return Dump(path, "safetensors", {name: found[name] for name in sorted(found, key=_place)})


def _place(name: str) -> tuple[float, int, str]:
    """Where an operator is in the forward pass; a file of safetensors has no order of its own."""
    layer = re.search(r"\.layers\.(\d+)\.", name)
    leaf = name.rpartition(".")[2]
    within = _ORDER.index(leaf) if leaf in _ORDER else len(_ORDER)
    return (int(layer[1]) if layer else math.inf, within, name)


def _kind(name: str) -> str:
    """By the names that the families of transformers use; empty where they don't tell."""
    leaf = name.rpartition(".")[2]
    if leaf == "lm_head":
        return "lm_head"
    if leaf.endswith("norm"):
        return "norm"
    if leaf in ("act_fn", "activation_fn"):
        return "activation"
    if leaf == "self_attn":
        return "attention"
    return "linear" if leaf.endswith("_proj") else ""


def _dump_json(folder: Path) -> Path:
    there = sorted(folder.rglob("dump.json"))
    if len(there) == 1:
        return there[0]
    if not there:
        raise ConfigError(
            f"{folder}: there is no dump.json in it; msProbe writes one into step0/rank0, with the "
            "task 'tensor' and the level 'L0' or 'mix'"
        )
    raise ConfigError(
        f"{folder}: holds {len(there)} dumps; give one of them: "
        f"{', '.join(str(path) for path in there[:4])}"
    )


def _msprobe(given: Path, path: Path) -> Dump:
    """The forward passes of modules, all calls of one module below each other."""
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        data = dict(said["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path}: not a dump.json of msProbe ({error!r:.100})") from None
    if said.get("task") != "tensor":
        raise ConfigError(
            f"{path}: its task is {said.get('task')!r}, so it has statistics and no tensors; dump "
            "with the task 'tensor'"
        )
    tensors = path.parent / "dump_tensor_data"
    if not tensors.is_dir():
        raise ConfigError(f"{path}: there is no folder dump_tensor_data beside it")
    calls: dict[str, tuple[str, dict[int, tuple[str, str | None]]]] = {}
    for key, value in data.items():
        one = _MODULE.fullmatch(key)
        kind = _class_kind(one["path"], one["cls"]) if one else ""
        if one is None or not kind:
            continue
        output = _file(value.get("output"))
        if output is not None:
            reads = _file(value.get("input_args"))
            calls.setdefault(one["path"], (kind, {}))[1][int(one["call"])] = (output, reads)
    if not calls:
        raise ConfigError(
            f"{path}: holds no forward pass of a linear layer, a norm or an activation with "
            "tensors; dump with the level 'L0' or 'mix', whose names begin with 'Module.'"
        )
    found = {}
    for name, (kind, each) in calls.items():
        files = [each[call] for call in sorted(each)]
        inputs = [reads for _, reads in files if reads is not None]
        found[name] = Dumped(
            name,
            kind,
            _loader(tensors, [output for output, _ in files]),
            _loader(tensors, inputs) if len(inputs) == len(files) else None,
        )
    return Dump(given, "msprobe", found)


def _class_kind(path: str, cls: str) -> str:
    leaf = path.rpartition(".")[2]
    if cls.endswith("RMSNorm"):
        return "norm"
    if leaf == "act_fn":
        return "activation"
    if "Linear" in cls:
        return "lm_head" if leaf == "lm_head" else "linear"
    return ""


def _file(tensors: Any) -> str | None:
    """The file of the first tensor in a list of msProbe."""
    first = tensors[0] if isinstance(tensors, list) and tensors else tensors
    name = first.get("data_name") if isinstance(first, dict) else None
    return name if isinstance(name, str) and Path(name).name == name else None


def _loader(folder: Path, names: list[str]) -> Callable[[], Tensor]:
    def load() -> Tensor:
        found = []
        for name in names:
            try:
                # Data alone: a pickle of another machine runs nothing here.
                tensor = torch.load(folder / name, map_location="cpu", weights_only=True)
            except Exception as error:  # whatever the unpickler meets
                raise ConfigError(f"{folder / name}: can't be read: {error!s:.200}") from None
            found.append(_rows(tensor.detach()))
        return torch.cat(found)

    return load

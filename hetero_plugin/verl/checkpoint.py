"""From verl's FSDP checkpoint to a plain Hugging Face folder, checked to be clean.

verl writes each rank's shards as ``model_world_size_N_rank_R.pt``. Its own merger imports all
of verl's engines to read them; here the shards are joined along the dimension their placement
names, and the result is compared, key for key, with the checkpoint that training started from.
Of a LoRA run the adapter's products are added to that checkpoint's weights.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from hetero_plugin.verl.kept import KeptError, check_target, new_folder

_RANK_FILE = re.compile(r"model_world_size_(\d+)_rank_(\d+)\.pt")
_PEFT = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_([AB])\.default\.weight")
_META = "lora_train_meta.json"
_COPIED = ("config.json", "generation_config.json")
_TOKENIZER = ("tokenizer*", "vocab.json", "merges.txt", "chat_template*", "special_tokens_map.json")


class CheckpointError(RuntimeError):
    """A checkpoint that is incomplete, or not that of a clean model."""


def rank_files(folder: Path) -> list[Path]:
    """The shard files of an ``actor`` checkpoint folder, in the order of the ranks.

    Raises:
        CheckpointError: there are none, or some ranks' are missing.
    """
    found: dict[tuple[int, int], Path] = {}
    for path in folder.glob("model_world_size_*_rank_*.pt"):
        match = _RANK_FILE.fullmatch(path.name)
        if match:
            found[int(match[1]), int(match[2])] = path
    sizes = {size for size, _ in found}
    if len(sizes) != 1:
        raise CheckpointError(
            f"{folder} holds {'no' if not sizes else 'several world sizes of'} "
            "model_world_size_N_rank_R.pt files; give the `actor` folder of one checkpoint"
        )
    size = sizes.pop()
    missing = [rank for rank in range(size) if (size, rank) not in found]
    if missing:
        raise CheckpointError(f"{folder}: the shards of ranks {missing} of {size} are missing")
    return [found[size, rank] for rank in range(size)]


def _local(value: Any) -> tuple[torch.Tensor, int | None]:
    """(this rank's part, the dimension it is sharded along or None) of a saved tensor."""
    placements = getattr(value, "placements", None)
    if placements is None:
        return value, None
    sharded = [p.dim for p in placements if p.is_shard()]
    if len(sharded) > 1:
        raise CheckpointError(
            f"a tensor is sharded along dimensions {sharded}; only one is understood. Merge this "
            "checkpoint with `python -m verl.model_merger merge --backend fsdp`"
        )
    return value.to_local(), sharded[0] if sharded else None


def _load(path: Path) -> Mapping[str, Any]:
    """One rank's tensors. What is no tensor is not made: torch's restricted unpickler reads them.

    Raises:
        CheckpointError: unreadable, or with anything else in it than named tensors.
    """
    import torch.distributed.tensor  # tells that unpickler of DTensors

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of the zip file, of the unpickler, of what it may not build
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        # torch's message begins with advice to read the file without this protection.
        said = next((line for line in lines if " global " in line.lower()), lines[0])
        raise CheckpointError(
            f"{path} can't be read as tensors alone, which is all that is read: {said} "
            "If you trust the file, merge it with `python -m verl.model_merger merge --backend "
            "fsdp`, which unpickles whatever is in it"
        ) from error
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(value, torch.Tensor) for name, value in state.items()
    ):
        raise CheckpointError(f"{path} holds something else than named tensors")
    return state


def read_sharded(folder: Path) -> dict[str, torch.Tensor]:
    """The whole model of an ``actor`` checkpoint folder: name -> tensor on CPU.

    Raises:
        CheckpointError: incomplete, or ranks that disagree about names.
    """
    ranks = [_load(path) for path in rank_files(folder)]
    names = list(ranks[0])
    for index, state in enumerate(ranks):
        if list(state) != names:
            odd = sorted(set(state) ^ set(names))
            raise CheckpointError(f"{folder}: rank {index} and rank 0 differ in {odd or 'order'}")
    merged = {}
    for name in names:
        parts = [_local(state[name]) for state in ranks]
        dimension = parts[0][1]
        tensors = [part for part, _ in parts]
        merged[name] = tensors[0] if dimension is None else torch.cat(tensors, dim=dimension)
    return merged


def _base_files(base: Path) -> list[Path]:
    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise CheckpointError(
            f"{base} holds no *.safetensors; give the folder training started from"
        )
    return files


def _base_shapes(base: Path) -> dict[str, tuple[int, ...]]:
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for path in _base_files(base):
        with safe_open(path, framework="pt") as file:
            shapes |= {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    return shapes


def is_adapted(state: Mapping[str, torch.Tensor]) -> bool:
    """Whether these are the names of a model with a PEFT adapter, or of an adapter alone."""
    return any(name.startswith(_PEFT) or ".lora_" in name for name in state)


def with_adapter(
    state: Mapping[str, torch.Tensor], actor: Path, base: Path, tied: bool
) -> dict[str, torch.Tensor]:
    """The whole model of a LoRA checkpoint: W + (alpha / r) B A, where there is an adapter.

    Added in float32 and rounded to the dtype of W in ``base``: what PEFT's ``merge_and_unload``
    gives for a float32 model. What the checkpoint has of the base (with verl's ``save_lora_only``:
    nothing) was not trained, so it has to be the base's still.

    Args:
        state: ``read_sharded(actor)``.
        actor: its folder, for the adapter's rank and alpha.
        base: the checkpoint that training started from.
        tied: its output layer is the embedding.

    Raises:
        CheckpointError: not the adapter of linear layers that verl trains, or not over this base.
    """
    from safetensors.torch import load_file

    whole = {name: value for path in _base_files(base) for name, value in load_file(path).items()}
    factors: dict[str, dict[str, torch.Tensor]] = {}
    frozen: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        plain = name.removeprefix(_PEFT)
        match = _FACTOR.fullmatch(plain)
        if match:
            factors.setdefault(match[1], {})[match[2]] = value.float()
        else:
            frozen[plain.replace(".base_layer.", ".")] = value
    if tied:  # as in check_clean
        for names in (whole, frozen):
            names.pop("lm_head.weight", None)
    _check_frozen(frozen, whole, base)
    scaling = _scaling(actor, {module: pair.get("A") for module, pair in factors.items()})
    for module, pair in factors.items():
        name = f"{module}.weight"
        if set(pair) != {"A", "B"} or name not in whole:
            raise CheckpointError(
                f"{actor} has lora_{' and lora_'.join(sorted(pair))} of {module}; a linear layer's "
                f"adapter has both, over {name} in {base}"
            )
        weight, delta = whole[name], pair["B"] @ pair["A"] * scaling
        if delta.shape != weight.shape:
            raise CheckpointError(
                f"the adapter of {module} is of shape {tuple(delta.shape)}; {name} in {base} is "
                f"of {tuple(weight.shape)}"
            )
        whole[name] = (weight.float() + delta).to(weight.dtype)
    return whole


def _check_frozen(
    frozen: Mapping[str, torch.Tensor], whole: Mapping[str, torch.Tensor], base: Path
) -> None:
    """Checks that the base's weights in a LoRA checkpoint are those of ``base``, all or none."""
    extra, missing = sorted(set(frozen) - set(whole)), sorted(set(whole) - set(frozen))
    if extra or (frozen and missing):
        raise CheckpointError(
            f"the LoRA checkpoint is not one over {base}: not there: {extra or 'none'}; missing: "
            f"{missing or 'none'}. Only adapters of linear layers' weights are merged"
        )
    changed = sorted(n for n, v in frozen.items() if not torch.equal(whole[n].to(v.dtype), v))
    if changed:
        raise CheckpointError(
            f"the base is frozen in a LoRA run, and yet these are not what {base} has: {changed}; "
            "give the folder that training started from"
        )


def _scaling(actor: Path, factors: Mapping[str, torch.Tensor | None]) -> float:
    """alpha / r, as verl wrote them down beside the shards; r has to be that of the adapters."""
    path = actor / _META
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        rank, alpha = int(meta["r"]), float(meta["lora_alpha"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(
            f"{path} does not tell the adapter's r and lora_alpha, which scale it: {error!r}"
        ) from None
    other = sorted(m for m, a in factors.items() if a is not None and a.shape[0] != rank)
    if rank < 1 or other:
        raise CheckpointError(
            f"{path} says r={rank}, which is not that of {other or 'any adapter'}"
        )
    return alpha / rank


def check_clean(state: dict[str, torch.Tensor], base: Path, tied: bool) -> None:
    """Checks that ``state`` has the names and shapes of the clean checkpoint ``base``, no more.

    Raises:
        CheckpointError: names what is missing, what is too much, and what is not finite.
    """
    wanted = _base_shapes(base)
    found = {name: tuple(value.shape) for name, value in state.items()}
    if tied:  # an output layer that is the embedding may be listed or not
        for shapes in (wanted, found):
            shapes.pop("lm_head.weight", None)
    extra, missing = sorted(set(found) - set(wanted)), sorted(set(wanted) - set(found))
    shape = sorted(n for n in set(found) & set(wanted) if found[n] != wanted[n])
    if extra or missing or shape:
        raise CheckpointError(
            f"the trained checkpoint is not that of the clean model in {base}: "
            f"not there before: {extra or 'none'}; missing: {missing or 'none'}; "
            f"other shape: {shape or 'none'}"
        )
    broken = sorted(n for n, v in state.items() if not torch.isfinite(v).all())
    if broken:
        raise CheckpointError(f"the trained checkpoint has values that are not finite in {broken}")


def merge(actor: Path, base: Path, output: Path) -> Path:
    """Writes verl's ``actor`` checkpoint as a Hugging Face folder that vLLM and HF load.

    Args:
        actor: ``global_step_N/actor`` of a verl run with FSDP or FSDP2, LoRA or not.
        base: the checkpoint that training started from: configuration, tokenizer, names, dtype.
        output: made anew; it appears only when it is complete. A folder that an earlier merge
            wrote is replaced then, and no other: not one with anything else in it, nor one that
            is, holds or lies in ``actor`` or ``base``.

    Returns:
        ``output``.

    Raises:
        CheckpointError: incomplete, not the clean model's names and shapes, or ``output`` may not
            be written. What was there before is then as it was.
    """
    from safetensors.torch import save_file

    patterns = (*_COPIED, *_TOKENIZER)
    files = [path for one in patterns for path in sorted(base.glob(one)) if path.is_file()]
    # Files may be links to where the bytes are, as in Hugging Face's cache.
    inputs = [actor, base, *files, *actor.glob("*.pt"), *base.glob("*.safetensors")]
    try:
        check_target(output, inputs)  # before a minute of reading
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        state = read_sharded(actor)
        tied = bool(config.get("tie_word_embeddings", False))
        if is_adapted(state):
            state = with_adapter(state, actor, base, tied)
        check_clean(state, base, tied)
        if tied:
            state.pop("lm_head.weight", None)
        with new_folder(output, inputs) as partial:
            save_file(
                {name: value.contiguous() for name, value in state.items()},
                partial / "model.safetensors",
                metadata={"format": "pt"},
            )
            for path in files:
                shutil.copy2(path, partial / path.name)
    except KeptError as error:
        raise CheckpointError(f"merge: {error}") from None
    return output

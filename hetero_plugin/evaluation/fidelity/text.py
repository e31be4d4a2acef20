"""A text in windows of tokens, each read by itself, and windows in batches without padding."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.evaluation import checkpoints, files


@dataclass(frozen=True)
class Text:
    """The beginning of a text.

    Attributes:
        windows: token ids, int64 [T], T >= 2; the last may be shorter than the others.
        sha256: of the whole file.
    """

    windows: tuple[Tensor, ...]
    sha256: str


def read_windows(
    model_path: Path, text: Path, *, tokens: int, context: int, least: int = 1
) -> Text:
    """Reads a text with a checkpoint's tokenizer.

    Args:
        model_path: folder of the checkpoint.
        text: a UTF-8 file.
        tokens: of its beginning.
        context: of a window.
        least: windows that are needed.

    Raises:
        ConfigError: the settings can't be, or the text can't be read or is too short.
    """
    if context < 2 or tokens < context:
        raise ConfigError(f"tokens {tokens}, context {context}: a window needs 2 tokens or more")
    content = _read(text)
    ids = checkpoints.tokenizer(model_path).encode(content, add_special_tokens=False)[:tokens]
    cut = [torch.tensor(ids[i : i + context]) for i in range(0, len(ids), context)]
    windows = tuple(window for window in cut if len(window) >= 2)
    if not windows:
        raise ConfigError(f"--text {text}: holds {len(ids)} tokens; at least 2 are needed")
    if len(windows) < least:
        raise ConfigError(
            f"--text {text}: {len(ids)} tokens of it make {len(windows)} windows of {context}; an "
            f"interval needs {least} windows: give a longer text, more --tokens (now {tokens}) or "
            "a smaller --context"
        )
    return Text(windows, hashlib.sha256(content.encode()).hexdigest())


def batches(windows: Sequence[Tensor], most: int) -> list[Tensor]:
    """Neighbouring windows of equal length together, so that none is padded.

    Args:
        windows: int64 [T].
        most: windows of a batch.

    Returns:
        int64 [B, T], B <= ``most``, in the order of the windows.
    """
    found: list[Tensor] = []
    group: list[Tensor] = []
    for window in windows:
        if group and (len(window) != len(group[0]) or len(group) == most):
            found.append(torch.stack(group))
            group = []
        group.append(window)
    return [*found, torch.stack(group)]


def _read(text: Path) -> str:
    try:
        return text.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--text {text}: not in UTF-8, at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"--text {text}: can't be read: {files.reason(error)}") from None

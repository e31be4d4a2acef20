"""What a recording is made of: a checkpoint, and the beginning of a text in sequences."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from hetero_plugin.config import ConfigError
from hetero_plugin.profile.header import ModelSource, TextSource

__all__ = ["model_source", "read_text", "sequence_lengths", "split"]

LONGEST = 512  # of a sequence


def model_source(folder: Path) -> ModelSource:
    """A checkpoint's name and digests; reads all of its weights once.

    Raises:
        ConfigError: it is no folder with a config.json and weights.
    """
    config = folder / "config.json"
    if not config.is_file():
        raise ConfigError(
            f"--model {folder}: not a Hugging Face checkpoint (no config.json); give its folder"
        )
    weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
    if not weights:
        raise ConfigError(f"--model {folder}: holds no weights (*.safetensors or *.bin)")
    digest = hashlib.sha256()
    for path in weights:
        digest.update(path.name.encode())
        with path.open("rb") as content:
            while block := content.read(1 << 22):
                digest.update(block)
    return ModelSource(
        name=folder.resolve().name,
        config_sha256=hashlib.sha256(config.read_bytes()).hexdigest(),
        weights_sha256=digest.hexdigest(),
    )


def sequence_lengths(rows: int) -> tuple[int, ...]:
    """Lengths of sequences, long and short, that have so many rows in all.

    Example::

        sequence_lengths(128)  # (42, 28, 19, 13, 8, 8, 8, 2)
    """
    found = []
    while rows:
        found.append(min(rows, max(8, rows // 3), LONGEST))
        rows -= found[-1]
    return tuple(found)


def split(tokens: Sequence[int], lengths: Sequence[int]) -> list[list[int]]:
    """Tokens cut into sequences of these lengths."""
    ends = [0]
    for length in lengths:
        ends.append(ends[-1] + length)
    return [list(tokens[start:end]) for start, end in pairwise(ends)]


def read_text(model: Path, text: Path, rows: int) -> tuple[TextSource, tuple[int, ...]]:
    """The first tokens of a text.

    Args:
        model: folder of the checkpoint, with its tokenizer.
        text: a UTF-8 file.
        rows: how many tokens.

    Raises:
        ConfigError: the text can't be read or is too short, or there is no tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        content = text.read_bytes()
        words = content.decode()
    except UnicodeDecodeError as error:
        raise ConfigError(f"--text {text}: not in UTF-8, at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"--text {text}: can't be read: {error.strerror or error}") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
    except Exception as error:  # a file of the wrong sort ends in whatever its parser raises
        said = " ".join(str(error).split())[:300]
        raise ConfigError(
            f"--model {model}: its tokenizer can't be loaded ({type(error).__name__}: {said})"
        ) from None
    # Eight characters a token are more than any text of words has.
    ids = tokenizer.encode(words[: 64 * rows], add_special_tokens=False)[:rows]
    if len(ids) < rows:
        raise ConfigError(
            f"--text {text}: holds {len(ids)} tokens, and --rows {rows} are asked for; give a "
            "longer text or fewer rows"
        )
    return TextSource(name=text.name, sha256=hashlib.sha256(content).hexdigest()), tuple(ids)

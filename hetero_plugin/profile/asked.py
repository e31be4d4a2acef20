"""What recording is asked for, and what it is made of: tokens, operators, the header.

T rows, C columns of a site's outputs that are kept, R repetitions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hetero_plugin.config import ConfigError
from hetero_plugin.config.layers import check_layers, numbers_of
from hetero_plugin.profile import source
from hetero_plugin.profile.header import Header, ModelSource, TextSource
from hetero_plugin.profile.recording import Recording
from hetero_plugin.sites import Site
from hetero_plugin.sites.select import match

__all__ = ["Asked", "Basis", "basis", "chosen", "header_of"]

MOST_ROWS = 4096
DTYPES = ("auto", "bfloat16", "float16", "float32")
OUTSIDE = "outside"
"""Among layers: the final norm and the head."""


@dataclass(frozen=True)
class Asked:
    """A recording that is asked for.

    Args:
        model: folder of a clean checkpoint.
        out: the file.
        text: a UTF-8 file; None with `replay`, whose tokens are used.
        engine: what runs the operators.
        replay: a recording whose inputs are used.
        variant: what this machine is made to do; see `operators.VARIANTS`.
        layers: decoder layers, such as 3 or "2-5", and "outside" for what is in none; None: all.
        targets: kinds, site names, globs or ``re:`` patterns.
        rows: T, tokens of the text.
        columns: C at most.
        repeats: R.
        dtype: of the model: auto or a name of torch.
        device: as torch names it; None: the accelerator, if there is one.
        fused: norms with the addition before them, activations with the product after.
    """

    model: Path
    out: Path
    text: Path | None = None
    engine: Literal["hf", "vllm"] = "hf"
    replay: Path | None = None
    variant: str = "plain"
    layers: tuple[int | str, ...] | None = None
    targets: tuple[str, ...] = ("linear", "norm", "activation", "attention")
    rows: int = 128
    columns: int = 128
    repeats: int = 3
    dtype: str = "auto"
    device: str | None = None
    fused: bool = False

    def check(self) -> None:
        """That the numbers and words can be.

        Raises:
            ConfigError: one can't.
        """
        for option, value, least, most in (
            ("--rows", self.rows, 2, MOST_ROWS),
            ("--columns", self.columns, 1, 1 << 20),
            ("--repeats", self.repeats, 1, 100),
        ):
            if not least <= value <= most:
                raise ConfigError(f"{option} {value}: should be from {least} to {most}")
        if self.text is None and self.replay is None:
            raise ConfigError("give --text, or --replay-inputs with a recording whose text is read")
        if self.engine not in ("hf", "vllm"):
            raise ConfigError(f"--engine {self.engine!r}: should be hf or vllm")
        if self.dtype not in DTYPES:
            raise ConfigError(f"--dtype {self.dtype!r}: should be one of {', '.join(DTYPES)}")


@dataclass(frozen=True)
class Basis:
    """What is recorded: the checkpoint, the tokens, and the recording whose inputs are used."""

    model: ModelSource
    text: TextSource
    tokens: tuple[int, ...]
    lengths: tuple[int, ...]
    replay: Recording | None

    @property
    def positions(self) -> tuple[int, ...]:
        """Of each row in its sequence."""
        return tuple(i for length in self.lengths for i in range(length))


def basis(asked: Asked) -> Basis:
    """Reads the checkpoint's digests, and the text or the recording that is replayed.

    Raises:
        ConfigError: one can't be read, or they don't belong together.
    """
    asked.check()
    model = source.model_source(asked.model)
    if asked.replay is None:
        assert asked.text is not None
        lengths = source.sequence_lengths(asked.rows)
        text, tokens = source.read_text(asked.model, asked.text, asked.rows)
        return Basis(model, text, tokens, lengths, None)
    replay = Recording.open(asked.replay)
    before = replay.header
    if before.model.weights_sha256 != model.weights_sha256:
        raise ConfigError(
            f"--replay-inputs {asked.replay}: was recorded with the checkpoint "
            f"{before.model.name!r} (weights {before.model.weights_sha256[:16]}), and --model "
            f"{asked.model} has weights {model.weights_sha256[:16]}; give the same checkpoint"
        )
    if before.replay_of is not None or before.engine == "imported":
        raise ConfigError(
            f"--replay-inputs {asked.replay}: holds no inputs, since it is of inputs of another "
            "recording; give that one"
        )
    if asked.text is not None:
        text, _ = source.read_text(asked.model, asked.text, len(before.tokens))
        if text.sha256 != before.text.sha256:
            raise ConfigError(
                f"--text {asked.text}: is another text than that of {asked.replay} "
                f"({before.text.name}); leave --text out, the recording has the tokens"
            )
    return Basis(model, before.text, before.tokens, before.sequences, replay)


def header_of(asked: Asked, basis: Basis, dtype: str, facts: Mapping[str, str]) -> Header:
    """The header of a recording, without its sites."""
    replay = basis.replay
    if replay is not None and replay.header.dtype != dtype:
        raise ConfigError(
            f"--replay-inputs {asked.replay}: its dtype is {replay.header.dtype}, and here the "
            f"model runs in {dtype}; say --dtype {replay.header.dtype}"
        )
    return Header(
        model=basis.model,
        text=basis.text,
        tokens=basis.tokens,
        positions=basis.positions,
        sequences=basis.lengths,
        dtype=dtype,
        engine=asked.engine,
        variant=asked.variant,
        machine=dict(facts),
        repeats=asked.repeats,
        columns=asked.columns if replay is None else replay.header.columns,
        replay_of=None if replay is None else replay.header.digest,
    )


def chosen(asked: Asked, sites: Sequence[Site]) -> set[str]:
    """Names of the sites that --targets and --layers leave.

    Raises:
        ConfigError: a word matches nothing, or nothing is left.
    """
    names = match(asked.targets, sites, "--targets")
    words = tuple(word for word in asked.layers or () if word != OUTSIDE)
    layers: set[int | None] = set(numbers_of(check_layers(words or None)) or ())
    there: set[int | None] = {site.layer for site in sites if site.layer is not None}
    if missing := sorted(n for n in layers - there if n is not None):
        raise ConfigError(
            f"--layers: the model has no layer {', '.join(map(str, missing))}; its layers are 0 to "
            f"{len(there) - 1}"
        )
    if asked.layers is None or OUTSIDE in asked.layers:
        layers.add(None)
    if asked.layers is None:
        layers |= there
    found = {site.name for site in sites if site.name in names and site.layer in layers}
    if not found:
        raise ConfigError(
            f"--targets {' '.join(asked.targets)} in --layers {asked.layers} leave no operator"
        )
    return found

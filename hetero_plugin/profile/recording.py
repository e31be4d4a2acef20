"""A recording: what the operators of one machine computed on known inputs, as a file.

A zip without compression that holds ``header.json`` and ``sites/NAME.safetensors``. While it is
made it is the folder ``NAME.part`` with the same members, each of which is put in place in one
step, so that a recording that was killed goes on where it was.

T rows (tokens) of one pass, K inputs and N outputs of a row, C columns of the outputs that are
kept, R repetitions.
"""

from __future__ import annotations

import os
import shutil
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from torch import Tensor

from hetero_plugin.config import ConfigError
from hetero_plugin.profile.header import (
    Header,
    ModelSource,
    SiteEntry,
    TensorShape,
    TextSource,
    parse_header,
    settings,
    tensors_sha256,
)

__all__ = [
    "ENDING",
    "Header",
    "ModelSource",
    "Recording",
    "RecordingWriter",
    "SiteEntry",
    "SiteRecord",
    "TensorShape",
    "TextSource",
    "check_comparable",
    "tensors_sha256",
]

ENDING = ".rec"
_OWN = ("columns", "output", "reference", "row_rms", "weight")
"""Tensors of a site's file that are no inputs."""


@dataclass(frozen=True)
class SiteRecord:
    """One operator's record.

    Args:
        entry: what the header says of it.
        columns: int64 [C], ascending: which of the N outputs of a row are kept.
        output: [R, T, C], in the operator's own output dtype.
        reference: float64 [T, C], the operator in float64; None where nobody computed one.
        row_rms: float64 [T], of each whole row of the first output.
        inputs: name -> tensor; empty where only their hash is kept.
        weight: of a norm, [K].
    """

    entry: SiteEntry
    columns: Tensor
    output: Tensor
    reference: Tensor | None
    row_rms: Tensor
    inputs: dict[str, Tensor] = field(default_factory=dict)
    weight: Tensor | None = None

    def check(self, repeats: int) -> None:
        """That the shapes are those of the entry.

        Raises:
            ValueError: one is not; the message says which.
        """
        t, c = self.entry.rows, self.entry.columns
        wanted = {"columns": (c,), "output": (repeats, t, c), "row_rms": (t,)}
        found = {name: tuple(getattr(self, name).shape) for name in wanted}
        if self.reference is not None:
            wanted["reference"], found["reference"] = (t, c), tuple(self.reference.shape)
        for name, tensor in self.inputs.items():
            wanted[name], found[name] = self.entry.inputs[name].shape, tuple(tensor.shape)
        for name, shape in wanted.items():
            if found[name] != shape:
                raise ValueError(f"{self.entry.name}: {name} is {found[name]}, expected {shape}")


def _member(name: str) -> str:
    return f"sites/{name}.safetensors"


class Recording:
    """A finished recording, read a site at a time."""

    def __init__(self, path: Path, header: Header, file: zipfile.ZipFile) -> None:
        self.path, self.header, self._file = path, header, file
        self._entries = {entry.name: entry for entry in header.sites}

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Opens the file and reads its header.

        Raises:
            ConfigError: it is not there, not finished, no recording, or of another version.
        """
        path = Path(path)
        part = path.with_name(path.name + ".part")
        if not path.is_file():
            if part.is_dir():
                raise ConfigError(
                    f"{path}: the recording is not finished ({part.name} is there): run the same "
                    "`hetero-noise profile record` again, it goes on where it was"
                )
            raise ConfigError(f"{path}: there is no such file; `hetero-noise profile record` makes")
        try:
            file = zipfile.ZipFile(path)
            text = file.read("header.json")
        except (zipfile.BadZipFile, KeyError, EOFError) as error:
            raise ConfigError(f"{path}: not a recording, or cut short ({error})") from None
        return cls(path, parse_header(path, text), file)

    def sites(self) -> list[str]:
        """Names of the sites, in the order of the forward pass."""
        return list(self._entries)

    def entry(self, name: str) -> SiteEntry:
        """What the header says of a site.

        Raises:
            ConfigError: there is none of that name.
        """
        if name not in self._entries:
            raise ConfigError(f"{self.path}: has no site {name!r}; it has {len(self._entries)}")
        return self._entries[name]

    def site(self, name: str) -> SiteRecord:
        """A site's tensors, with its inputs if this file holds them.

        Raises:
            ConfigError: there is none of that name, or its member is damaged.
        """
        entry = self.entry(name)
        tensors = self._load(name)
        inputs = {key: value for key, value in tensors.items() if key not in _OWN}
        if entry.inputs_of is not None:
            other = self._load(entry.inputs_of)
            inputs = {key: other[key] for key in entry.inputs if key in other}
        return SiteRecord(
            entry,
            tensors["columns"],
            tensors["output"],
            tensors.get("reference"),
            tensors["row_rms"],
            inputs,
            tensors.get("weight"),
        )

    def _load(self, name: str) -> dict[str, Tensor]:
        from safetensors import SafetensorError
        from safetensors.torch import load

        try:
            return load(self._file.read(_member(name)))
        except (zipfile.BadZipFile, KeyError, EOFError, SafetensorError) as error:
            raise ConfigError(f"{self.path}: site {name} can't be read: {error}") from None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RecordingWriter:
    """Makes a recording, a site at a time, or goes on with one that was killed.

    Args:
        path: of the finished file.
        header: without sites.

    Raises:
        ConfigError: the file is there already, or an unfinished one has other settings.
    """

    def __init__(self, path: str | Path, header: Header) -> None:
        self.path = Path(path)
        self.folder = self.path.with_name(self.path.name + ".part")
        if self.path.exists():
            raise ConfigError(f"{self.path}: is there already; give another --out, or remove it")
        self.header = header.replace(sites=(), bytes=0)
        begun = self.folder / "header.json"
        if begun.is_file():
            self._go_on(parse_header(self.folder, begun.read_bytes()))
        else:
            (self.folder / "sites").mkdir(parents=True, exist_ok=True)
            self._write_header()

    def _go_on(self, there: Header) -> None:
        ours = settings(self.header)
        for key, before in settings(there).items():
            if ours.get(key) != before:
                raise ConfigError(_changed(self.folder, key, before, ours.get(key)))
        for key in ours.keys() - settings(there).keys():
            raise ConfigError(_changed(self.folder, key, None, ours[key]))
        self.header = there

    def has(self, name: str) -> bool:
        """Whether a site is recorded already."""
        return any(entry.name == name for entry in self.header.sites)

    def add(self, record: SiteRecord) -> None:
        """Writes a site; when this returns, it is on the disk.

        Raises:
            ValueError: its shapes are not those of its entry, or it is there already.
            OSError: it can't be written.
        """
        from safetensors.torch import save

        record.check(self.header.repeats)
        if self.has(record.entry.name):
            raise ValueError(f"{record.entry.name} is recorded already")
        tensors: dict[str, Any] = {name: getattr(record, name) for name in _OWN}
        tensors |= {} if record.entry.inputs_of else record.inputs
        kept = {
            name: value.detach().cpu().contiguous()
            for name, value in tensors.items()
            if value is not None
        }
        content = save(kept)
        _put(self.folder / _member(record.entry.name), content)
        self.header = self.header.replace(
            sites=(*self.header.sites, record.entry), bytes=self.header.bytes + len(content)
        )
        self._write_header()

    def close(self) -> None:
        """Packs everything into the file and removes the folder.

        Raises:
            OSError: it can't be written; the folder stays.
        """
        partial = self.path.with_name(self.path.name + ".packing")
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as packed:
            # With one date, the same recording is the same file.
            packed.writestr(zipfile.ZipInfo("header.json"), self.header.as_json())
            for entry in self.header.sites:
                member = _member(entry.name)
                with (
                    (self.folder / member).open("rb") as source,
                    packed.open(zipfile.ZipInfo(member), "w") as target,
                ):
                    shutil.copyfileobj(source, target)
        with partial.open("rb") as whole:
            os.fsync(whole.fileno())
        os.replace(partial, self.path)
        shutil.rmtree(self.folder)

    def _write_header(self) -> None:
        _put(self.folder / "header.json", self.header.as_json().encode())


def _put(path: Path, content: bytes) -> None:
    """Writes a file so that it is there whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    os.replace(partial, path)


def _changed(folder: Path, key: str, before: Any, now: Any) -> str:
    return (
        f"{folder}: was begun with {key} {before!r:.80}, and now it is {now!r:.80}: a recording is "
        "of one machine with one setting; go on as it was begun, or remove the folder"
    )


def check_comparable(a: Recording, b: Recording) -> list[str]:
    """That two recordings are of the same operators on the same inputs.

    Returns:
        Names of the sites that both have, in a's order.

    Raises:
        ConfigError: they are not; it names the first thing that differs, both values, and what
            would be right.
    """
    one, two = a.header, b.header
    said = [
        ("weights of the model", one.model.weights_sha256, two.model.weights_sha256,
         "record the same checkpoint on both machines"),
        ("text", one.text.sha256, two.text.sha256, "record with the same --text"),
        ("tokens", one.tokens, two.tokens, "record with the same --text and --rows"),
        ("sequences", one.sequences, two.sequences, "record with the same --rows"),
        ("dtype", one.dtype, two.dtype, "record in the same dtype"),
    ]  # fmt: skip
    for what, mine, theirs, remedy in said:
        if mine != theirs:
            raise ConfigError(_unlike(a, b, what, mine, theirs, remedy))
    both = [name for name in a.sites() if name in set(b.sites())]
    if not both:
        raise ConfigError(
            f"{a.path} and {b.path}: have no site in common ({len(a.sites())} and "
            f"{len(b.sites())}); record with the same --layers and --targets"
        )
    replay = f"record the second one with --replay-inputs {a.path.name}"
    parts = (
        ("kind", "kind", "record the same checkpoint on both machines"),
        ("rows", "rows", "record with the same --rows"),
        ("width", "n", "record the same checkpoint on both machines"),
        ("inputs", "inputs_sha256", replay),
        ("columns", "columns_sha256", "record with the same --columns"),
    )
    for name in both:
        for what, key, remedy in parts:
            mine, theirs = getattr(a.entry(name), key), getattr(b.entry(name), key)
            if mine != theirs:
                raise ConfigError(_unlike(a, b, f"{what} of {name}", mine, theirs, remedy))
    return both


def _unlike(a: Recording, b: Recording, what: str, mine: Any, theirs: Any, remedy: str) -> str:
    return f"{what}: {a.path.name} has {mine!r:.80}, {b.path.name} has {theirs!r:.80}; {remedy}"

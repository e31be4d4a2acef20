"""What number formats would do to a checkpoint's weights: the size of each format's error.

Only files are read, a matrix at a time; no model is built. The error is that of the format alone,
weights rounded to it and nothing else: no calibration, no rotation, no scale that is searched for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hetero_plugin.config import METHOD, ConfigError
from hetero_plugin.errors.formats import FORMATS, Format
from hetero_plugin.sites import Site, sites_from_config

__all__ = ["Measured", "gaussian", "matrices", "measure", "measure_checkpoint", "summary"]

_FLOATS = (torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Measured:
    """A matrix in a format.

    Args:
        site: its canonical name.
        kind: of its site.
        format: as in `hetero_plugin.errors.formats.FORMATS`.
        signal, error: sums of squares of the matrix and of what the format changes, float64.
        zeros: how many numbers become 0 and were none.
        numbers: how many there are.
        tensor: ``weight`` or ``activation``.
    """

    site: str
    kind: str
    format: str
    signal: float
    error: float
    zeros: int
    numbers: int
    tensor: str = "weight"

    @property
    def relative(self) -> float:
        """Root of the mean square of the error over that of the matrix; NaN for a matrix of 0."""
        return math.sqrt(self.error / self.signal) if self.signal > 0 else math.nan

    @property
    def decibels(self) -> float:
        """Signal to quantisation noise, dB."""
        return math.inf if self.error == 0 else -20.0 * math.log10(self.relative)


def measure(site: str, kind: str, weight: Tensor, form: Format) -> Measured:
    """One matrix in one format.

    Args:
        weight: [N, K], blocks lie along K, which the product sums over.
    """
    x = weight.float()
    y = form.apply(x)
    return Measured(
        site,
        kind,
        form.name,
        float(x.double().square().sum()),
        float((y.double() - x.double()).square().sum()),
        int(((y == 0) & (x != 0)).sum()),
        x.numel(),
    )


def gaussian(form: Format, numbers: int = 1 << 20) -> Measured:
    """A format's error on standard normals, [1024, numbers / 1024], the same at each call."""
    x = torch.randn(1024, numbers // 1024, generator=torch.Generator().manual_seed(0))
    return measure("Gaussian", "", x, form)


def _files(folder: Path) -> dict[str, Path]:
    """Tensor name -> its file.

    Raises:
        ConfigError: the folder has no safetensors files, or an index that names missing ones.
    """
    from safetensors import safe_open

    index = folder / "model.safetensors.index.json"
    if index.is_file():
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        missing = sorted({name for name in listed.values() if not (folder / name).is_file()})
        if missing:
            raise ConfigError(
                f"--model {folder}: {index.name} lists {missing[0]}, which is not there"
            )
        return {name: folder / file for name, file in listed.items()}
    found: dict[str, Path] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    if not found:
        raise ConfigError(
            f"--model {folder}: there are no *.safetensors files; it should be the folder of a "
            "Hugging Face checkpoint"
        )
    return found


def matrices(
    folder: Path, config: dict[str, Any], layers: Sequence[int] = ()
) -> tuple[list[tuple[Site, str, Path]], list[Site]]:
    """The weights of a checkpoint's linear sites, as far as each has a tensor of its own.

    Args:
        folder: of the checkpoint.
        config: its config.json.
        layers: only these; none: all, and the head.

    Returns:
        Site, name of the tensor and file; and the sites without one: a head that shares the
        embedding, experts, which checkpoints store in other ways.

    Raises:
        ConfigError: none is there, a layer that the model lacks, or weights that are quantised.
    """
    method = (config.get("quantization_config") or {}).get("quant_method")
    if method not in (None, METHOD):
        raise ConfigError(
            f"--model {folder}: its weights are quantised already ({method}); give the checkpoint "
            "that they were made from"
        )
    files, sites = _files(folder), sites_from_config(config)
    there = {site.layer for site in sites if site.layer is not None}
    wrong = sorted(set(layers) - there)
    if wrong:
        raise ConfigError(f"--layers: {wrong[0]}; the model has layers 0 to {max(there)}")
    found, without = [], []
    for site in sites:
        if site.kind not in ("linear", "lm_head") or (layers and site.layer not in layers):
            continue
        name = f"{site.name}.weight"
        if name in files:
            found.append((site, name, files[name]))
        else:
            without.append(site)
    if not found:
        raise ConfigError(
            f"--model {folder}: no tensor is named as a linear layer of "
            f"{config.get('model_type')!r} should be, such as {without[0].name}.weight"
        )
    return found, without


def _read(name: str, file: Path) -> Tensor:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as opened:
        weight: Tensor = opened.get_tensor(name)
    if weight.dtype not in _FLOATS:
        raise ConfigError(
            f"{file.name}: {name} is {str(weight.dtype).removeprefix('torch.')}, not bfloat16, "
            "float16 or float32: the weights are quantised already"
        )
    return weight


def measure_checkpoint(
    chosen: Sequence[tuple[Site, str, Path]],
    formats: Iterable[str],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Iterator[Measured]:
    """Each matrix in each format, one after the other.

    Args:
        chosen: what `matrices` found.
        formats: names in `FORMATS`.
        progress: called with the number of matrices done and of all.

    Raises:
        ConfigError: a matrix that is quantised already.
    """
    forms = [FORMATS[name] for name in formats]
    for done, (site, name, file) in enumerate(chosen):
        progress(done, len(chosen))
        weight = _read(name, file)
        for form in forms:
            yield measure(site.name, site.kind, weight, form)
    progress(len(chosen), len(chosen))


def summary(found: Sequence[Measured], name: str) -> Measured:
    """Several matrices as one: sums of squares, zeros and numbers of all."""
    return Measured(
        name,
        "",
        found[0].format,
        sum(one.signal for one in found),
        sum(one.error for one in found),
        sum(one.zeros for one in found),
        sum(one.numbers for one in found),
    )

"""Profiles of pairs of machines, and the page about them.

    python -m scripts.pairs_page fit FOLDER … --model CHECKPOINT   recordings of `scripts.pairs`
    python -m scripts.pairs_check --model CHECKPOINT --text README.md
    python -m scripts.pairs_page dials FILE …                      of `hetero-noise dial --out`
    python -m scripts.pairs_page page                              docs/pairs.md

`fit` writes `recipes/profiles/NAME.profile` of each pair that differs, small, and what was recorded
of all pairs into `recipes/profiles/pairs.json`. Of a pair that several folders have, the profile
is of the last one. What the page has between its marks is made of these files only.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hetero_plugin.config import PRESETS
from hetero_plugin.config.profile import SHIPPED
from hetero_plugin.errors.profile import Profile, load_profile
from hetero_plugin.profile.recording import Recording, check_comparable

ROOT = Path(__file__).parents[1]
PROFILES = ROOT / "recipes" / "profiles"
DATA = PROFILES / "pairs.json"
PAGE = ROOT / "docs" / "pairs.md"
FIGURE = ROOT / "docs" / "img" / "pairs.svg"


@dataclass(frozen=True)
class Pair:
    """Two machines that this one was, or can be made to be.

    Args:
        name: of the pair and its profile.
        a, b: names of recordings.
        about: A and B in words.
        kinds: of operators in which they differ, and that `--as` can replace.
        as_a, as_b: words of ``--as``; b empty: it can't be had within one process.
        environment: a variable and its value, of a process that is B.
        setting: B is a setting of the whole process, which no kind of operator has alone.
    """

    name: str
    a: str
    b: str
    about: str
    kinds: tuple[str, ...] = ()
    as_a: str = "plain"
    as_b: str = ""
    environment: tuple[str, str] | None = None
    setting: bool = False

    @property
    def path(self) -> Path:
        """Of the profile: with the package if it is a preset, else among the recipes."""
        return (SHIPPED if self.name in PRESETS else PROFILES) / f"{self.name}.profile"


_HEAD = ("linear", "lm_head")
PAIRS = (
    Pair("fp32-gemm", "plain", "fp32-gemm",
         "oneDNN's bfloat16 GEMM, and float32 operands and sums, rounded once",
         _HEAD, as_b="fp32-gemm"),
    Pair("no-onednn", "plain", "no-onednn", "oneDNN's bfloat16 GEMM, and torch's own kernels",
         _HEAD, as_b="no-onednn", setting=True),
    Pair("avx512", "plain", "avx512",
         "oneDNN with the processor's bfloat16 instructions, and with AVX-512 alone "
         "(`ONEDNN_MAX_CPU_ISA=AVX512_CORE`)",
         _HEAD, environment=("ONEDNN_MAX_CPU_ISA", "AVX512_CORE"), setting=True),
    Pair("compiled", "plain", "compiled",
         "eager operators, and each operator through `torch.compile`", ("norm",), as_b="compiled"),
    Pair("hopper-vs-ampere", "hopper", "ampere",
         "Hopper's matrix units (25 bits, 16 products at a time) and Ampere's (24 bits, 8)",
         ("linear",), as_a="accumulate:hopper", as_b="accumulate:ampere"),
    Pair("cpu-vs-hopper", "plain", "hopper",
         "oneDNN's bfloat16 GEMM, and Hopper's matrix units", ("linear",),
         as_b="accumulate:hopper"),
    Pair("rows-1", "plain", "rows-1", "a batch of rows, and one row at a time", ("linear",),
         as_b="rows:1"),
    Pair("rows-32", "plain", "rows-32", "a batch of rows, and 32 at a time"),
    Pair("threads-1", "plain", "threads-1", "two threads, and one"),
    Pair("vllm", "plain", "vllm", "Hugging Face, and vLLM's own operators, one by one"),
    Pair("vllm-fused", "fused", "vllm-fused",
         "norms with the addition before them and activations with the product after: in Hugging "
         "Face, and vLLM's fused operators"),
    Pair("gaussian", "plain", "gaussian",
         "this machine, and the same with `relative_gaussian` at 0.002 on every output: a control "
         "whose answer is known", ("linear", "norm", "activation", "lm_head"),
         as_b="gaussian:0.002"),
)  # fmt: skip
"""In the order of the page."""
MEASURED = tuple(name for name in PRESETS if "rules" in PRESETS[name] and "-w" not in name)
"""Presets that are drawn."""
GAPS = (*MEASURED, *(name for name in PRESETS if "-w" in name))
"""Presets whose gap is measured."""


def read() -> dict[str, Any]:
    """What was recorded and measured; empty: nothing yet."""
    if not DATA.is_file():
        return {}
    found: dict[str, Any] = json.loads(DATA.read_text(encoding="utf-8"))
    return found


def write(data: Mapping[str, Any]) -> None:
    """Keeps it, with four digits a number."""
    text = json.dumps(_short(data), indent=1, sort_keys=True, allow_nan=False)
    DATA.write_text(text + "\n", encoding="utf-8")


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, Mapping):
        return {key: _short(one) for key, one in value.items()}
    return [_short(one) for one in value] if isinstance(value, list | tuple) else value


# ---- fit ----


def counted(a: Recording, b: Recording) -> dict[str, Any]:
    """What two recordings are of, and how many outputs differ, by kind and K."""
    kinds: dict[tuple[str, int], list[int]] = {}
    layers = set()
    for name in check_comparable(a, b):
        one, two = a.site(name), b.site(name)
        entry = one.entry
        key = (entry.kind, entry.k if entry.kind in ("linear", "lm_head") else entry.n)
        found = kinds.setdefault(key, [0, 0])
        found[0] += one.output[0].numel()
        found[1] += int((one.output[0] != two.output[0]).sum())
        layers.add(entry.layer)
    return {
        "rows": len(a.header.tokens),
        "columns": a.header.columns,
        "repeats": min(a.header.repeats, b.header.repeats),
        "layers": len(layers - {None}),
        "kinds": [
            {"kind": kind, "k": k, "elements": n, "changed": changed}
            for (kind, k), (n, changed) in sorted(kinds.items())
        ],
    }


def fit_pairs(folders: Sequence[Path], model: Path | None, only: Sequence[str]) -> None:
    """Fits what differs, and keeps what was recorded."""
    from hetero_plugin.profile.fit.compact import compacted
    from hetero_plugin.profile.fit.run import fit

    PROFILES.mkdir(parents=True, exist_ok=True)
    for pair in PAIRS:
        there = [f for f in folders if all((f / f"{m}.rec").exists() for m in (pair.a, pair.b))]
        if not there or (only and pair.name not in only):
            continue
        recorded = []
        made: Profile | None = None
        for folder in there:
            with (
                Recording.open(folder / f"{pair.a}.rec") as a,
                Recording.open(folder / f"{pair.b}.rec") as b,
            ):
                recorded.append(counted(a, b))
                if folder == there[-1] and any(k["changed"] for k in recorded[-1]["kinds"]):
                    made = compacted(fit(a, b, name=pair.name, model=model))
        if made is not None:
            made.write(pair.path, dense=True)
        data = read()
        data.setdefault("recorded", {})[pair.name] = recorded
        write(data)
        print(pair.name, f"{pair.path.stat().st_size / 1e3:.0f} kB" if made else "no difference")


def keep_dials(files: Sequence[Path]) -> None:
    """Keeps the scales that `hetero-noise dial` found, in the order of what was wanted."""
    data = read()
    found = {(one["measure"], one["wanted"]): one for one in data.get("dials", [])}
    for file in files:
        made = json.loads(file.read_text(encoding="utf-8"))
        want = made["want"]
        found[want["measure"], want["value"]] = {
            "measure": want["measure"],
            "wanted": want["value"],
            "scale": {key: made["scale"][key] for key in ("value", "low", "high")},
            "tokens": made["predicted_tokens"],
            "draws": made["draws"],
            "text": Path(made["text"]).name,
        }
    write({**data, "dials": [found[key] for key in sorted(found)]})


# ---- page ----


def fitted() -> dict[str, Profile]:
    """The committed profiles, by name of the pair."""
    return {pair.name: load_profile(pair.path) for pair in PAIRS if pair.path.exists()}


def main() -> None:
    """Fits, or writes the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    fit = commands.add_parser("fit", help="profiles from recordings")
    fit.add_argument("folders", nargs="+", type=Path)
    fit.add_argument("--model", type=Path, help="checkpoint: its weights explain matrix units")
    fit.add_argument("--only", nargs="*", default=[], help="names of pairs")
    dials = commands.add_parser("dials", help="results of `hetero-noise dial`")
    dials.add_argument("files", nargs="+", type=Path)
    commands.add_parser("page", help="docs/pairs.md")
    given = parser.parse_args()
    if given.command == "fit":
        fit_pairs(given.folders, given.model, given.only)
        return
    if given.command == "dials":
        keep_dials(given.files)
        return
    from scripts.pairs_figure import draw
    from scripts.pairs_text import page, replaced

    draw(fitted(), FIGURE)
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(replaced(text, page(read(), fitted())), encoding="utf-8")
    print(PAGE)


if __name__ == "__main__":
    main()

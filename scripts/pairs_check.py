"""What two machines, and the profile of their difference, do to a whole model's distributions.

    python -m scripts.pairs_check --model FOLDER --text README.md [--only NAME …]

For each pair of `scripts.pairs_page` whose machines this one can be made to be: the model as A, as
B at one kind of operator at a time and at all together, and as A with the profile; and the model
with each preset. Where B is a variable of the environment, another process computes it. Written
into `recipes/profiles/pairs.json`, one after another; what is there is left.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from hetero_plugin.config import NoiseConfig
from hetero_plugin.evaluation import checkpoints
from hetero_plugin.evaluation.fidelity.batch import next_logits
from hetero_plugin.evaluation.fidelity.machines import as_machine
from hetero_plugin.evaluation.fidelity.panel import LEAST_WINDOWS, summarise, token_rows
from hetero_plugin.evaluation.fidelity.text import batches, read_windows
from hetero_plugin.evaluation.fidelity.three import PAIRS as THREE
from hetero_plugin.evaluation.fidelity.three import side_by_side
from hetero_plugin.hf import unwrap, wrap
from hetero_plugin.profile.operators.variants import variant
from scripts.pairs_page import GAPS, MEASURED, PAIRS, Pair, read, write

BATCH = 4
DRAWS = (0, 1)
"""Seeds that a preset is drawn with."""


class Session:
    """A model, a text, and the logits of the model as it is.

    Args:
        model: folder of a checkpoint.
        text: UTF-8.
        tokens, context: of the text, and of a window.
    """

    def __init__(self, model: Path, text: Path, tokens: int, context: int) -> None:
        self.given = ("--model", str(model), "--text", str(text), "--tokens", str(tokens),
                      "--context", str(context))  # fmt: skip
        read_text = read_windows(model, text, tokens=tokens, context=context, least=LEAST_WINDOWS)
        self.model: nn.Module = AutoModelForCausalLM.from_pretrained(model, dtype="auto").eval()
        self.groups = batches(read_text.windows, BATCH)
        self.about = {
            "model": model.name,
            "model_sha256": checkpoints.weights_digest(model),
            "text": text.name,
            "text_sha256": read_text.sha256,
            "context": context,
            "tokens": sum(len(window) - 1 for window in read_text.windows),
        }
        self._plain: list[Tensor] = []

    @property
    def plain(self) -> list[Tensor]:
        """Logits [B, T − 1, V] of each group of windows, of the model as it is."""
        if not self._plain:
            self._plain = list(self.logits())
        return self._plain

    def logits(self) -> Iterator[Tensor]:
        """Of the model as it is set now, a group of windows at a time."""
        with torch.no_grad():
            for group in self.groups:
                yield next_logits(self.model, group)

    def elsewhere(self, variable: str, value: str) -> list[Tensor]:
        """`logits` of the same model and text, of a process with this in its environment.

        Raises:
            subprocess.CalledProcessError: it failed.
        """
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "logits.pt"
            command = [sys.executable, "-m", "scripts.pairs_check", *self.given, "--logits", out]
            subprocess.run(command, env={**os.environ, variable: value}, check=True)
            found: list[Tensor] = torch.load(out)
            return found

    def rows(self, left: Sequence[Tensor], right: Sequence[Tensor]) -> list[Any]:
        """`token_rows` of each window."""
        return [
            token_rows(a[i], b[i], group[i, 1:])
            for group, a, b in zip(self.groups, left, right, strict=True)
            for i in range(len(group))
        ]

    @contextmanager
    def machine(self, word: str, kinds: Sequence[str]) -> Iterator[None]:
        """Within, operators of these kinds are another machine's."""
        if word == "plain":
            yield
            return
        with as_machine(self.model, variant(word), kinds):
            yield

    @contextmanager
    def noise(self, spec: NoiseConfig) -> Iterator[None]:
        """Within, the model has an error."""
        wrap(self.model, spec, quiet=True)
        try:
            yield
        finally:
            unwrap(self.model)


def profile_spec(pair: Pair, kinds: Sequence[str], seed: int = 0) -> NoiseConfig:
    """The rule that draws a pair's profile at some kinds of operators."""
    rule = {
        "targets": list(kinds),
        "exclude": [] if "lm_head" in kinds else ["lm_head"],
        "error": "profile",
        "path": str(pair.path),
        "direction": "forward",
        "scale": 1,
    }
    return NoiseConfig(seed=seed, rules=[rule])


def check(session: Session, pair: Pair) -> dict[str, Any]:
    """The three pairs of `side_by_side`, and by kind how far B is from A."""
    drawn = [kind for kind in pair.kinds if kind != "lm_head"]
    with session.machine(pair.as_a, drawn):
        a = list(session.logits()) if pair.as_a != "plain" else session.plain
        with session.noise(profile_spec(pair, drawn)):
            p = list(session.logits())
    runs = [list(pair.kinds)] if pair.setting else [[kind] for kind in pair.kinds]
    if not pair.setting:
        runs += [kinds for kinds in (list(pair.kinds), drawn) if kinds not in runs]
    by_kind, three = {}, {}
    for kinds in runs:
        if pair.environment:
            b = session.elsewhere(*pair.environment)
        else:
            with session.machine(pair.as_b, kinds):
                b = list(session.logits())
        rows = session.rows(a, b)
        found = side_by_side([dict.fromkeys(THREE, row) for row in rows])
        by_kind[" + ".join(kinds)] = found["pairs"]["a_b"]
        if kinds == drawn or pair.setting:
            whole = zip(rows, session.rows(a, p), session.rows(p, b), strict=True)
            three = side_by_side([dict(zip(THREE, one, strict=True)) for one in whole])
    return {**session.about, "drawn": drawn, "by_kind": by_kind, **three}


def gap(session: Session, name: str) -> dict[str, Any]:
    """How far a preset takes the model from what it is; of what is drawn, over `DRAWS`."""
    rows = []
    for seed in DRAWS if name in MEASURED else DRAWS[:1]:
        with session.noise(NoiseConfig(preset=name, seed=seed)):
            rows.append(session.rows(session.plain, list(session.logits())))
    found = summarise([row for draw in rows for row in draw])
    return {**session.about, "draws": len(rows), "measures": found["measures"]}


def main() -> None:
    """Measures what is not there yet."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--context", type=int, default=32)
    parser.add_argument("--only", nargs="*", help="checks/PAIR, gaps/PRESET; default: all")
    parser.add_argument("--logits", type=Path, help="only write the model's logits there")
    given = parser.parse_args()
    session = Session(given.model, given.text, given.tokens, given.context)
    if given.logits:
        torch.save(session.plain, given.logits)
        return
    asked = [("checks", pair.name) for pair in PAIRS if pair.kinds]
    asked += [("gaps", name) for name in GAPS]
    by_name = {pair.name: pair for pair in PAIRS}
    for place, name in asked:
        if (given.only and f"{place}/{name}" not in given.only) or name in read().get(place, {}):
            continue
        began = time.monotonic()
        made = gap(session, name) if place == "gaps" else check(session, by_name[name])
        data = read()
        data.setdefault(place, {})[name] = made
        write(data)
        print(f"{place}/{name}: {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()

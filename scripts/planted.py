"""Planted bugs and correct differences, told apart by compare-machines: how often it is right.

    python -m scripts.planted                 208 bugs, 224 floors; about 3 minutes on a core
    python -m scripts.planted --write docs/profiles.md       and puts the table into the page

Operators are computed in torch on random inputs of several shapes; machine A is correct, machine B
has one bug, or computes correctly in another way. All seeds are fixed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from hetero_plugin.evaluation.stats import wilson
from hetero_plugin.profile.compare.attention import mixed, turned
from hetero_plugin.profile.compare.run import LIMIT, site_row
from hetero_plugin.profile.header import Header, ModelSource, SiteEntry, TensorShape, TextSource
from hetero_plugin.profile.recording import SiteRecord

START, END = "<!-- planted: begin -->", "<!-- planted: end -->"
HEAD = 32


@dataclass(frozen=True)
class Case:
    """An operator on both machines.

    Args:
        what: of the bug or floor.
        cause: that should be named; None: a floor.
        a, b: the records.
        header: of the recordings.
    """

    what: str
    cause: str | None
    a: SiteRecord
    b: SiteRecord
    header: Header


@dataclass(frozen=True)
class Operator:
    """Inputs and the correct result of an operator, before anything is recorded."""

    kind: str
    inputs: dict[str, Tensor]
    a: Tensor
    reference: Tensor
    k: int
    extra: dict[str, float]
    sequences: tuple[int, ...]
    weight: Tensor | None = None

    def case(self, what: str, cause: str | None, b: Tensor, most: int, seed: int) -> Case:
        """The case of a machine B that gave ``b`` [T, N]; at most so many columns are kept."""
        n = self.a.shape[1]
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        columns = order[:most].sort().values
        entry = SiteEntry(
            name="site",
            kind=self.kind,
            layer=0,
            k=self.k,
            n=n,
            rows=len(self.a),
            columns=len(columns),
            columns_sha256="",
            inputs={key: TensorShape.of(value) for key, value in self.inputs.items()},
            inputs_sha256="",
            extra=self.extra,
        )

        def record(y: Tensor, inputs: dict[str, Tensor]) -> SiteRecord:
            rms = y.double().square().mean(1).sqrt()
            kept = self.reference[:, columns]
            return SiteRecord(entry, columns, y[None, :, columns], kept, rms, inputs, self.weight)

        positions = tuple(i for length in self.sequences for i in range(length))
        header = Header(
            model=ModelSource(name="made up", config_sha256="", weights_sha256=""),
            text=TextSource(name="made up", sha256=""),
            tokens=positions,
            positions=positions,
            sequences=self.sequences,
            dtype="bfloat16",
            engine="hf",
            machine={},
            repeats=1,
        )
        return Case(what, cause, record(self.a, self.inputs), record(b, {}), header)


def linear(g: torch.Generator, t: int, k: int, n: int) -> tuple[Operator, Tensor, Tensor]:
    """A linear layer with a bias; the operator, the weight and the bias."""
    x = (torch.randn(t, k, generator=g) * torch.randn(k, generator=g).exp()).bfloat16()
    w = (torch.randn(n, k, generator=g) / k**0.5).bfloat16()
    bias = (0.3 * torch.randn(n, generator=g)).bfloat16()
    right = x.double() @ w.double().T + bias.double()
    a = (x.float() @ w.float().T + bias.float()).bfloat16()
    return Operator("linear", {"x": x}, a, right, k, {}, (t,)), w, bias


def norm(g: torch.Generator, t: int, k: int, eps: float, small: float) -> tuple[Operator, Tensor]:
    """An RMS norm with a residual, cast after the weight; the operator and the weight.

    ``small`` is the size of its inputs: an eps matters where it is not far above √eps.
    """
    x, residual = (
        (small * torch.randn(t, k, generator=g) * torch.randn(t, 1, generator=g).exp()).bfloat16()
        for _ in "xr"
    )
    weight = (1 + 0.3 * torch.randn(k, generator=g)).bfloat16()
    total = x.double() + residual.double()
    right = total * torch.rsqrt(total.square().mean(1, keepdim=True) + eps) * weight.double()
    a = normed(x.float() + residual.float(), weight, eps)
    extra = {"eps": eps, "heads": 1.0}
    return Operator(
        "norm", {"x": x, "residual": residual}, a, right, k, extra, (t,), weight
    ), weight


def normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMS norm in float32 of x, cast after the weight."""
    wide = x.float()
    scaled = wide * torch.rsqrt(wide.square().mean(1, keepdim=True) + eps)
    return (scaled * weight.float()).bfloat16()


def attention(g: torch.Generator, t: int, heads: int, kv: int) -> Operator:
    """Grouped attention of two sequences, after RoPE."""
    sequences = (t // 2, t - t // 2)
    q = torch.randn(t, heads * HEAD, generator=g).bfloat16()
    k, v = (torch.randn(t, kv * HEAD, generator=g).bfloat16() for _ in "kv")
    inputs = {"q": q, "k": k, "v": v}
    y = attend(inputs, sequences)
    extra = {"head": float(HEAD), "scaling": HEAD**-0.5}
    return Operator("attention", inputs, y.bfloat16(), y, heads * HEAD, extra, sequences)


def attend(inputs: dict[str, Tensor], sequences: tuple[int, ...], **how: bool) -> Tensor:
    """Attention in float64, [T, H · D]."""
    q, k, v = (inputs[name].reshape(len(inputs[name]), -1, HEAD) for name in "qkv")
    at = torch.arange(q.shape[1]) // (q.shape[1] // k.shape[1])
    return mixed(q, k[:, at], v[:, at], sequences, HEAD**-0.5, **how).flatten(1)


def _low(x: Tensor) -> Tensor:
    return x.bfloat16().float()


def bugs(seed: int) -> Iterator[Case]:
    """One case of each bug."""
    g = torch.Generator().manual_seed(seed)
    t = (32, 48, 96)[seed % 3]
    k, n = ((64, 96), (128, 128), (256, 160))[seed % 3]
    most = (128, 64)[seed % 2]

    op, w, bias = linear(g, t, k, n)
    x = op.inputs["x"].float()
    stale = (bias.float() + 0.05 * torch.randn(n, generator=g)).bfloat16()
    b = (x @ w.float().T + stale.float()).bfloat16()
    yield op.case("stale bias", "bias", b, most, seed)
    yield op.case("no bias", "bias", (x @ w.float().T).bfloat16(), most, seed)

    # Quantised weights of one scale an output, taken for one of each input.
    op, w, bias = linear(g, t, k, k)
    scale = (0.5 * torch.randn(k, generator=g)).exp()
    b = (
        (op.inputs["x"].float() * scale) @ (w.float() / scale[:, None]).T + bias.float()
    ).bfloat16()
    yield op.case("transposed scale, of channels", "scale", b, most, seed)
    blocks = 4
    scale = (0.5 * torch.randn(blocks, blocks, generator=g)).exp()
    size = -(-k // blocks)
    whole = scale.T.repeat_interleave(size, 0).repeat_interleave(size, 1)[:k, :k]
    own = scale.repeat_interleave(size, 0).repeat_interleave(size, 1)[:k, :k]
    b = (op.inputs["x"].float() @ (w.float() / own * whole).T + bias.float()).bfloat16()
    yield op.case("transposed scale, of blocks", "scale", b, most, seed)
    row = 1 + 0.05 * torch.randn(t, 1, generator=g)
    yield op.case("a row's scale", "scale", (op.a.float() * row).bfloat16(), most, seed)

    eps, other = ((1e-6, 1e-5), (1e-5, 1e-6), (1e-6, 1e-8))[seed % 3]
    op, weight = norm(g, t, k, eps, 5 * max(eps, other) ** 0.5)
    total = op.inputs["x"].float() + op.inputs["residual"].float()
    yield op.case("epsilon", "epsilon", normed(total, weight, other), most, seed)
    op, weight = norm(g, t, k, 1e-6, 1.0)
    total = (op.inputs["x"] + op.inputs["residual"]).bfloat16()
    low = total * torch.rsqrt(total.pow(2).mean(1, keepdim=True) + 1e-6)
    yield op.case("dropped cast in a norm", "cast", weight * low, most, seed)
    op, w, bias = linear(g, t, k, n)
    low = torch.zeros(t, n)
    for start in range(0, k, 16):  # an accumulator of bfloat16
        part = op.inputs["x"][:, start : start + 16].float() @ w[:, start : start + 16].float().T
        low = _low(low + part)
    b = (low + bias.float()).bfloat16()
    yield op.case("dropped cast of an accumulator", "cast", b, most, seed)

    heads, kv = ((4, 2), (8, 2), (6, 3))[seed % 3]
    op = attention(g, t, heads, kv)
    y = op.a.reshape(t, heads, HEAD)
    swapped = y.clone()
    one = seed % (heads - 1)
    swapped[:, [one, one + 1]] = y[:, [one + 1, one]]
    yield op.case("two heads swapped", "head", swapped.flatten(1), most, seed)
    mod = torch.arange(heads) % kv
    q, k_, v = (op.inputs[name].reshape(t, -1, HEAD) for name in "qkv")
    b = mixed(q, k_[:, mod], v[:, mod], op.sequences, HEAD**-0.5).flatten(1).bfloat16()
    yield op.case("heads of k and v mistaken", "head", b, most, seed)
    base, wrong = ((1e6, 1e4), (5e5, 1e4), (1e4, 1e6))[seed % 3]
    places = torch.tensor([i for length in op.sequences for i in range(length)])
    q, k_ = (turned(z, places, base, wrong) for z in (q, k_))
    at = torch.arange(heads) // (heads // kv)
    b = mixed(q, k_[:, at], v[:, at], op.sequences, HEAD**-0.5).flatten(1).bfloat16()
    yield op.case("wrong RoPE base", "RoPE base", b, most, seed)
    b = attend(op.inputs, op.sequences, causal=False).bfloat16()
    yield op.case("no causal mask", "mask", b, most, seed)
    op, w, bias = linear(g, t, k, n)
    order = torch.arange(n).reshape(-1, HEAD // 2).roll(1, 0).flatten()
    yield op.case("heads rotated in a projection", "head", op.a[:, order], most, seed)


def faint(seed: int) -> Iterator[Case]:
    """Bugs that are about as large as rounding's own error, or far below it."""
    g = torch.Generator().manual_seed(20_000 + seed)
    t, k, n, most = 64, 128, 128, 128
    op, w, bias = linear(g, t, k, n)
    product = op.inputs["x"].float() @ w.float().T
    for size in (1e-2, 3e-3, 1e-3):
        stale = bias.float() + size * torch.randn(n, generator=g)
        yield op.case(
            f"stale bias, off by {size:g}", "bias", (product + stale).bfloat16(), most, seed
        )
    whole = product + bias.float()
    for size in (1e-2, 3e-3, 1e-3, 3e-4):
        row = 1 + size * torch.randn(t, 1, generator=g)
        b = (whole * row).bfloat16()
        yield op.case(f"a row's scale, off by {size:g}", "scale", b, most, seed)
    for ratio in (1e2, 1e3, 1e4):
        op, weight = norm(g, t, k, 1e-6, (1e-5 * ratio) ** 0.5)
        total = op.inputs["x"].float() + op.inputs["residual"].float()
        what = f"epsilon, the mean square {ratio:g} times larger"
        yield op.case(what, "epsilon", normed(total, weight, 1e-5), most, seed)


def floors(seed: int) -> Iterator[Case]:
    """One case of each correct difference."""
    g = torch.Generator().manual_seed(10_000 + seed)
    t = (32, 48, 96)[seed % 3]
    k, n = ((64, 96), (128, 128), (1024, 96))[seed % 3]
    most = (128, 64)[seed % 2]
    op, w, bias = linear(g, t, k, n)
    x = op.inputs["x"]

    def of(y: Tensor) -> Tensor:
        return (y + bias.float()).bfloat16()

    product = torch.nn.functional.linear(x, w, bias)
    yield op.case("bfloat16 GEMM for a float32 one", None, product, most, seed)
    order = torch.randperm(k, generator=g)
    b = of(x.float()[:, order] @ w.float()[:, order].T)
    yield op.case("another order of K", None, b, most, seed)
    total = torch.zeros(t, n)
    for i in range(k):
        total = total + x[:, i, None].float() * w[:, i].float()
    yield op.case("one product after another", None, of(total), most, seed)
    parts = [x[:, i::4].float() @ w[:, i::4].float().T for i in range(4)]
    yield op.case(
        "split into four", None, of(parts[0] + parts[1] + (parts[2] + parts[3])), most, seed
    )
    b = torch.cat([torch.nn.functional.linear(row[None].float(), w.float()) for row in x])
    yield op.case("row by row", None, of(b), most, seed)
    b = (x.double() @ w.double().T + bias.double()).bfloat16()
    yield op.case("float64", None, b, most, seed)
    cut = (total.view(torch.int32) & ~0xFF).view(torch.float32)
    yield op.case("an accumulator cut off at 16 bits", None, of(cut), most, seed)
    b = (x.float() @ w.float().T).bfloat16() + bias
    yield op.case("bias after rounding", None, b, most, seed)

    op, weight = norm(g, t, k, 1e-6, 1.0)
    added = op.inputs["x"].float() + op.inputs["residual"].float()
    scaled = added * torch.rsqrt(added.square().mean(1, keepdim=True) + 1e-6)
    yield op.case("cast before the weight", None, weight * scaled.bfloat16(), most, seed)
    rounded = op.inputs["x"] + op.inputs["residual"]
    yield op.case("sum rounded before the norm", None, normed(rounded, weight, 1e-6), most, seed)
    scaled = rounded.float() * torch.rsqrt(rounded.float().square().mean(1, keepdim=True) + 1e-6)
    b = weight * scaled.bfloat16()
    yield op.case("both", None, b, most, seed)
    # Sums of chunks, and a root and a division: the candidates' numbers but for last bits.
    square = torch.stack([part.square().sum(1) for part in rounded.float().split(7, 1)]).sum(0)
    scaled = rounded.float() / (square / k + 1e-6).sqrt()[:, None]
    b = weight * scaled.bfloat16()
    yield op.case("both, in another order of sums", None, b, most, seed)
    heads, kv = ((4, 2), (8, 2), (6, 3))[seed % 3]
    op = attention(g, t, heads, kv)
    q, k_, v = (op.inputs[name].reshape(t, -1, HEAD) for name in "qkv")
    at = torch.arange(heads) // (heads // kv)
    found, start = [], 0
    for length in op.sequences:  # probabilities rounded, as flash attention does
        one, two, three = (
            z[start : start + length].float().transpose(0, 1) for z in (q, k_[:, at], v[:, at])
        )
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        scores = (one @ two.transpose(1, 2) * HEAD**-0.5).masked_fill(later, -torch.inf)
        weights = (scores - scores.amax(-1, keepdim=True)).exp()
        mean = _low(weights) @ three / weights.sum(-1, keepdim=True)
        found.append(mean.transpose(0, 1))
        start += length
    b = torch.cat(found).flatten(1).bfloat16()
    yield op.case("probabilities in bfloat16", None, b, most, seed)
    x = torch.randn(t, k, generator=g).bfloat16()
    right = torch.nn.functional.silu(x.double())
    op = Operator("activation", {"x": x}, torch.nn.functional.silu(x), right, k, {}, (t,))
    b = (x.float() / (1 + (-x.float()).exp())).bfloat16()
    yield op.case("another formula of SiLU", None, b, most, seed)


@dataclass
class Rate:
    """Of the cases of one sort: flagged, and named rightly."""

    cases: int = 0
    flagged: int = 0
    named: int = 0


def simulate(
    make: Callable[[int], Iterator[Case]], seeds: int
) -> tuple[dict[str, Rate], list[tuple[str, str | None, str | None]]]:
    """Rates by sort, and for each flagged case what it was, should be named and was named."""
    rates: dict[str, Rate] = {}
    said = []
    for seed in range(seeds):
        for case in make(seed):
            row = site_row(case.a, case.b, case.header, None, LIMIT)
            rate = rates.setdefault(case.what, Rate())
            rate.cases += 1
            if row["beyond"]:
                rate.flagged += 1
                name = row["cause"]["name"] if row["cause"] else None
                rate.named += name == case.cause
                said.append((case.what, case.cause, name))
    return rates, said


def page(seeds: int) -> list[str]:
    """The table for the page."""
    lines = ["| planted bug | cases | found | named rightly |", "|---|---|---|---|"]
    rates, _ = simulate(bugs, seeds)
    lines += [f"| {w} | {r.cases} | {r.flagged} | {r.named} |" for w, r in rates.items()]
    n = sum(r.cases for r in rates.values())
    lines.append(
        f"| all | {n} | {_rate(sum(r.flagged for r in rates.values()), n)} | "
        f"{_rate(sum(r.named for r in rates.values()), n)} |"
    )
    lines += ["", "| fainter bug | cases | found | named rightly |", "|---|---|---|---|"]
    rates, _ = simulate(faint, seeds)
    lines += [f"| {w} | {r.cases} | {r.flagged} | {r.named} |" for w, r in rates.items()]
    lines += ["", "| correct difference | cases | called a bug |", "|---|---|---|"]
    rates, _ = simulate(floors, seeds)
    lines += [f"| {what} | {rate.cases} | {rate.flagged} |" for what, rate in rates.items()]
    n = sum(r.cases for r in rates.values())
    lines.append(f"| all | {n} | {_rate(sum(r.flagged for r in rates.values()), n)} |")
    return lines


def _rate(hits: int, n: int) -> str:
    found = wilson(hits, n)
    return f"{100 * found.value:.1f} % [{100 * found.low:.1f}, {100 * found.high:.1f}]"


def write(path: Path, lines: list[str]) -> None:
    """Puts the table between its marks in a page."""
    text = path.read_text()
    before, rest = text.split(START)
    after = rest.split(END)[1]
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        file.write(f"{before}{START}\n" + "\n".join(lines) + f"\n{END}{after}")
    Path(file.name).replace(path)


def main() -> int:
    """Prints the table, and writes it where that is asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=16, help="cases of each sort")
    parser.add_argument("--write", type=Path, help="page with the marks of the table")
    options = parser.parse_args()
    lines = page(options.seeds)
    print("\n".join(lines))
    if options.write is not None:
        write(options.write, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())

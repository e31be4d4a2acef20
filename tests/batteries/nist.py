#!/usr/bin/env python3
"""NIST SP 800-22 on an order of the generator, with NumPy's PCG64 beside it as the control.

    python3.11 -m venv nist && nist/bin/pip install nist80022 'scipy<1.11' 'numpy<1.25'
    hetero-noise random --order columns --seed 1 --bytes 7500000 > columns.bin
    nist/bin/python tests/batteries/nist.py columns.bin --out runs/nist

(An environment of its own: that package uses names which newer SciPy no longer has.)

A sequence is 10^6 bits. As in SP 800-22 4.2, a statistic passes if the share of sequences with
p >= 0.01 lies within three standard deviations of 0.99 and the p-values are uniform (chi-square on
ten bins, p >= 0.0001). At 60 sequences three p-values under 0.01 already fail a statistic, which
chance alone does to 2 % of them, so about one run in three has a FAILED: repeat it with another
seed and more sequences. Where the control fails the same statistic, the implementation is at fault
and the line says so. Interrupted runs go on where they stopped. Exit status 1 if the file fails a
statistic that the control passes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.special import gammaincc

BITS = 1_000_000
Values = dict[str, list[float]]


def bit_strings(data: bytes) -> Iterator[str]:
    """Sequences of BITS bits as text, most significant bit of each byte first."""
    for start in range(0, len(data) // (BITS // 8) * (BITS // 8), BITS // 8):
        piece = np.frombuffer(data[start : start + BITS // 8], np.uint8)
        yield "".join("01"[b] for b in np.unpackbits(piece))


def _tests() -> list[Callable[[str], object]]:
    try:
        from nist80022.ApproximateEntropy import ApproximateEntropy
        from nist80022.BinaryMatrix import BinaryMatrix  # noqa: F401  (Matrix needs it)
        from nist80022.Complexity import ComplexityTest
        from nist80022.CumulativeSum import CumulativeSums
        from nist80022.FrequencyTest import FrequencyTest
        from nist80022.Matrix import Matrix
        from nist80022.RunTest import RunTest
        from nist80022.Serial import Serial
        from nist80022.Spectral import SpectralTest
        from nist80022.TemplateMatching import TemplateMatching
        from nist80022.Universal import Universal
    except ImportError as error:
        raise SystemExit(f"{error}: pip install nist80022") from None
    return [
        FrequencyTest.monobit_test,
        FrequencyTest.block_frequency,
        RunTest.run_test,
        RunTest.longest_one_block_test,
        Matrix.binary_matrix_rank_text,
        SpectralTest.spectral_test,
        TemplateMatching.non_overlapping_test,
        TemplateMatching.overlapping_patterns,
        Universal.statistical_test,
        # 400 blocks of 500 bits, twice what 2.10.5 asks; all 2,000 would take two minutes.
        lambda bits: ComplexityTest.linear_complexity_test(bits[:200_000]),
        Serial.serial_test,
        ApproximateEntropy.approximate_entropy_test,
        CumulativeSums.cumulative_sums_test,
        lambda bits: CumulativeSums.cumulative_sums_test(bits, mode=1),
    ]


def measure(bits: str) -> Values:
    """Every p-value of one sequence."""
    from nist80022.RandomExcursions import RandomExcursions

    tests = _tests()
    walk = np.cumsum(np.frombuffer(bits.encode(), np.uint8).astype(np.int64) * 2 - 97)
    # SP 800-22 2.14.4: fewer than 500 cycles are too few for the excursions tests.
    if np.count_nonzero(walk == 0) + 1 >= 500:
        tests += [RandomExcursions.random_excursions_test, RandomExcursions.variant_test]
    values: Values = defaultdict(list)
    for test in tests:
        for name, p, *_ in test(bits):  # type: ignore[attr-defined]
            values[name].append(float(p))
    return values


def verdict(p: np.ndarray) -> tuple[bool, float, float]:
    """Passed, the share of p >= 0.01, and the p-value of uniformity."""
    n = len(p)
    share = float(np.mean(p >= 0.01))
    counts = np.histogram(p, bins=10, range=(0, 1))[0]
    uniform = float(gammaincc(4.5, np.sum((counts - n / 10) ** 2) / (n / 10) / 2))
    return abs(share - 0.99) <= 3 * math.sqrt(0.0099 / n) and uniform >= 1e-4, share, uniform


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="raw bytes, 125,000 a sequence")
    parser.add_argument("--out", type=Path, default=Path("runs/nist"))
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    data = asked.file.read_bytes()
    count = len(data) * 8 // BITS
    if count < 55:  # what SP 800-22 4.2.2 asks for uniformity to mean something
        parser.error(f"{asked.file} holds {count} sequences of 10^6 bits; it takes at least 55")
    name = asked.file.stem
    sources = {name: data, "control": np.random.Generator(np.random.PCG64(1)).bytes(len(data))}
    found: dict[str, Values] = {}
    for source, raw in sources.items():
        path = asked.out / f"{source}.jsonl"
        done = path.read_text().splitlines() if path.exists() else []
        for index, bits in enumerate(bit_strings(raw)):
            if index < len(done):
                continue
            line = json.dumps(measure(bits))
            with path.open("a") as file:
                file.write(line + "\n")
            done.append(line)
            print(f"{source}: sequence {index + 1} of {count}", file=sys.stderr)
        found[source] = defaultdict(list)
        for line in done[:count]:
            for statistic, values in json.loads(line).items():
                found[source][statistic] += values
    failed = 0
    print(f"{'statistic':36} {'n':>4} {'share':>6} {'uniform':>8}   {'control':>7} {'uniform':>8}")
    for statistic, values in found[name].items():
        ours, theirs = (np.array(v) for v in (values, found["control"][statistic]))
        passed, share, uniform = verdict(ours)
        theirs_passed, theirs_share, theirs_uniform = verdict(theirs)
        word = "passed" if passed else "FAILED" if theirs_passed else "the control fails as well"
        failed += word == "FAILED"
        print(
            f"{statistic:36} {len(ours):4} {share:6.3f} {uniform:8.4f}   {theirs_share:7.3f} "
            f"{theirs_uniform:8.4f}  {word}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

"""The accumulators beside mmasim: a record of the comparison, and golden cases for CI.

    pip install --no-deps --target DIR mmasim==2.1.1
    PYTHONPATH=.:DIR python scripts/accumulators.py

Writes tests/errors/accumulators.json: what was compared, and mmasim's results of small cases whose
operands tests/errors/accumulator_cases.py makes. About two minutes on one core.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import torch
from torch import Tensor

from hetero_plugin.errors.accumulate import HARDWARE, accumulate
from hetero_plugin.kernels import KERNEL
from tests.errors.accumulator_cases import SORTS, pair
from tests.errors.oracle_mmasim import units

OUT = Path(__file__).parents[1] / "tests" / "errors" / "accumulators.json"
SHAPES = ((19, 33, 48), (5, 40, 100), (16, 64, 4), (3, 35, 448))


def different(a: Tensor, b: Tensor) -> int:
    """Results whose bits differ; of NaN whatever the bits."""
    return int(((a.view(torch.int32) != b.view(torch.int32)) & ~(a.isnan() & b.isnan())).sum())


def main() -> None:
    record: dict[str, dict[str, int]] = {}
    golden: dict[str, dict[str, list[list[int]]]] = {}
    for (hardware, operand), unit in units().items():
        how = HARDWARE[hardware][operand].numbers
        name = f"{hardware} {operand}"
        seen = {"cases": 0, "elements": 0, "products": 0, "native": 0, "reference": 0}
        golden[name] = {}
        for sort in SORTS:
            for seed in range(8):
                m, n, k = SHAPES[seed % len(SHAPES)]
                a, b = pair(m, n, k, operand, sort, seed)
                right = unit(a, b.T, torch.zeros(m, n))
                seen["cases"] += 1
                seen["elements"] += m * n
                seen["products"] += m * n * k
                wide = a.float(), b.float()
                seen["native"] += different(torch.ops.hetero_noise.accumulate(*wide, how), right)
                if seed < 2:
                    seen["reference"] += different(accumulate(*wide, how), right)
            a, b = pair(3, 4, 52, operand, sort, 100)
            right = unit(a, b.T, torch.zeros(3, 4))
            golden[name][sort] = right.view(torch.int32).tolist()
        record[name] = seen
        print(name, seen, flush=True)
    versions = {name: importlib.metadata.version(name) for name in ("mmasim", "torch")}
    versions["kernel"] = KERNEL
    text = json.dumps({"versions": versions, "compared": record, "golden": golden})
    OUT.write_text(text.replace('}, "', '},\n"').replace("]], ", "]],\n") + "\n")


if __name__ == "__main__":
    main()

"""Two training processes, each with the engine of its rank, as TRL has them for vLLM.

    python tests/trl/ranks.py CASE ...

The processes and what goes between them are real; the engines answer what the case says. Prints
what each process raised, or "fine", as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch.distributed as dist
import torch.multiprocessing as mp

SPEC = {"targets": ["linear"], "scale": 0.1}


class OneRank:
    """The engine of one process: it asks the worker in its own process alone."""

    def __init__(self, rank: int, case: str, fingerprint: str) -> None:
        self.rank, self.case = rank, case
        self.said: dict[str, Any] = {
            "noisy": True, "rank": rank, "fingerprint": fingerprint, "step": 0, "enabled": True,
            "tensors": "t0", "sigma": None,
        }  # fmt: skip

    def collective_rpc(self, method: str, kwargs: dict[str, Any]) -> list[Any]:
        spoiled = self.rank == 1
        if spoiled and self.case == "raises":
            raise RuntimeError("the worker of rank 1 fell over")
        if method == "hetero_noise_step" and not (spoiled and self.case == "deaf"):
            self.said |= {"step": kwargs["step"], "tensors": f"t{kwargs['step']}"}
        if method == "hetero_noise_set" and not (spoiled and self.case == "still noisy"):
            self.said["enabled"] = kwargs["enabled"]
        if spoiled and self.case == "clean":
            return [{"noisy": False, "rank": 1}]
        if spoiled and self.case == "other draw":
            self.said["tensors"] = "another"
        return [self.said]


def tried(rank: int, case: str) -> str:
    """What a step, an evaluation and another step end with."""
    from hetero_plugin.config import NoiseConfig
    from hetero_plugin.trl.engine import ColocatedEngine

    config = NoiseConfig.parse(SPEC)
    generation = SimpleNamespace(mode="colocate", llm=OneRank(rank, case, config.fingerprint))
    state: Any = SimpleNamespace(config=config, fingerprint=config.fingerprint)
    try:
        engine = ColocatedEngine(generation, state)
        engine.rollout(3)
        engine.evaluate(4, noisy=False)
        engine.rollout(4)
        assert engine.status["step"] == 4 and engine.status["enabled"]
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "fine"


def work(rank: int, cases: list[str], port: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2)
    found = {case: tried(rank, case) for case in cases}
    (Path(folder) / str(rank)).write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    import tempfile

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as path:
        mp.spawn(work, args=(sys.argv[1:], free, path), nprocs=2)
        said = [json.loads((Path(path) / str(rank)).read_text()) for rank in (0, 1)]
    print(json.dumps({case: [one[case] for one in said] for case in sys.argv[1:]}))

"""Real processes on gloo: two ranks of FSDP2 and of DDP have the noise of one process."""

from __future__ import annotations

import os
import socket
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hetero_plugin.hf import wrap
from tests.hf.conftest import tiny

SPEC = {"preset": "all-ops", "scale": 0.05, "direction": "forward"}


def batch() -> torch.Tensor:
    return torch.randint(1, 272, (4, 16), generator=torch.Generator().manual_seed(3))


def loss_of(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    logits = model(ids).logits
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def worker(rank: int, port: int, how: str, noisy: bool, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), OMP_NUM_THREADS="1")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    try:
        model = tiny()
        if noisy:
            wrap(model, SPEC, quiet=True)
        if how == "fsdp2":
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard

            mesh = init_device_mesh("cpu", (2,))
            for layer in model.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            run: torch.nn.Module = model
        else:
            run = torch.nn.parallel.DistributedDataParallel(model)
        loss_of(run, batch()[2 * rank : 2 * rank + 2]).backward()
        found = {}
        for name, parameter in model.named_parameters():
            grad = parameter.grad
            assert grad is not None, name
            found[name] = grad.full_tensor() if hasattr(grad, "full_tensor") else grad
        if rank == 0:
            torch.save(found, Path(folder) / "grads.pt")
        dist.barrier()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    # Without tearing down: DDP's reducer, freed after its gloo group, was seen to wait for ever.
    os._exit(0)


def distributed(how: str, noisy: bool, folder: Path) -> dict[str, torch.Tensor]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder.mkdir()
    mp.spawn(worker, args=(port, how, noisy, str(folder)), nprocs=2, join=True)
    return torch.load(folder / "grads.pt")


def alone(noisy: bool) -> dict[str, torch.Tensor]:
    model = tiny()
    if noisy:
        wrap(model, SPEC, quiet=True)
    loss_of(model, batch()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def gap(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / b[n].norm().clamp_min(1e-8)) for n in a)


@pytest.mark.engine
@pytest.mark.parametrize("how", ["fsdp2", "ddp"])
def test_two_ranks_reproduce_one_process(how: str, tmp_path: Path) -> None:
    """Gradients of the same global batch: the noisy gap is no more than three times the clean one
    (float32, sums in another order), and the noise itself is far larger."""
    clean = gap(distributed(how, False, tmp_path / "clean"), alone(False))
    noisy = gap(distributed(how, True, tmp_path / "noisy"), alone(True))
    effect = gap(alone(True), alone(False))
    assert noisy <= max(3 * clean, 2e-6), (noisy, clean)
    assert effect > 100 * noisy

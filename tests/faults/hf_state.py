"""FSDP before wrap, in a process group of one."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from hetero_plugin import NoiseConfig, wrap
from tests.faults.models import logits, tiny
from tests.faults.registry import fault, noticed


@fault(
    "sites: sharded layers are others than the ones that were wrapped",
    "`fully_shard` (FSDP2) before `wrap`",
    "the output is that of the model wrapped before sharding",
    by="values",
    engine="fsdp",
)
def fsdp_before_wrap() -> str:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    spec = NoiseConfig(preset="all")
    expected = logits(wrap(tiny(), spec))
    with tempfile.TemporaryDirectory() as folder:
        store = dist.FileStore(str(Path(folder) / "store"), 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        try:
            mesh = init_device_mesh("cpu", (1,))
            model = tiny()
            for layer in model.model.layers:
                fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            wrap(model, spec)
            found = logits(model)
        finally:
            dist.destroy_process_group()
    return noticed(torch.equal(found, expected), "the same noise as when wrapped first")

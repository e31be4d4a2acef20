"""What is done in the worker of the engine with faults in it: functions that are sent there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

VARIABLE = "HETERO_NOISE_CONFIG"


def words(call: Any) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def environment(worker: Any) -> str | None:
    return os.environ.get(VARIABLE)


def chains(worker: Any) -> Any:
    for module in worker.model_runner.get_model().modules():
        method = getattr(module, "quant_method", None)
        noise = getattr(method, "noise", None)
        if noise is not None:
            yield noise.output


def set_slot(worker: Any, name: str, slot: int) -> int:
    """Points a site's columns of a fused layer at another entry of the scale table."""
    for chain in chains(worker):
        for index, (site, _, _) in enumerate(chain.parts):
            if site == name:
                before = int(chain.stages[0].segments[index, 3])
                chain.stages[0].segments[index, 3] = slot
                return before
    raise LookupError(name)


def alike_rows(worker: Any) -> None:
    """Every row of a pass gets the first one's key."""
    state = worker.hetero_noise.state
    write = type(state).set_rows

    def alike(ids: Any, positions: Any) -> None:
        write(state, ids, positions)
        state.draw.keys[: ids.numel()] = state.draw.keys[0]

    state.set_rows = alike


def mend_rows(worker: Any) -> None:
    del worker.hetero_noise.state.set_rows


def segments(worker: Any) -> Any:
    for chain in chains(worker):
        for stage in chain.stages:
            yield stage.segments


def alike_sites(worker: Any) -> list[list[int]]:
    """Every linear site gets the first one's key; gives those they had."""
    found = list(segments(worker))
    before = [one[:, 1].tolist() for one in found]
    for one in found:
        one[:, 1] = before[0][0]
    return before


def mend_sites(worker: Any, keys: list[list[int]]) -> None:
    import torch

    for one, before in zip(segments(worker), keys, strict=True):
        one[:, 1] = torch.tensor(before)


def detach_table(worker: Any) -> None:
    """Settings go to a copy; the graph goes on reading the table as it is now."""
    state = worker.hetero_noise.state
    write = type(state)._write_scales

    def astray() -> None:
        read = state.draw
        state.draw = read._replace(scales=read.scales.clone())
        write(state)
        state.draw = read

    state._write_scales = astray


def attach_table(worker: Any) -> None:
    state = worker.hetero_noise.state
    del state._write_scales
    state._write_scales()


def break_norm(worker: Any, name: str) -> None:
    """Settings of one norm's offset go to a copy."""
    aqn = worker.hetero_noise.state.aqn
    worker.kept_view = aqn.view(name)
    worker.kept_offsets = aqn.offsets
    start = worker.kept_view.storage_offset()
    original = type(aqn).only

    def only(names: Any, sigma: float) -> None:
        original(aqn, names, sigma)
        aqn.offsets[start : start + worker.kept_view.numel()] = 0.0

    aqn.only = only


def mend_norm(worker: Any, name: str) -> None:
    del worker.hetero_noise.state.aqn.only


def reload(worker: Any, path: str) -> None:
    from safetensors.torch import load_file

    worker.model_runner.get_model().load_weights(
        load_file(Path(path) / "model.safetensors").items()
    )


def no_positions(worker: Any) -> str:
    import torch

    model = worker.model_runner.get_model()
    return words(lambda: model(input_ids=torch.zeros(4, dtype=torch.long), positions=None))


def die_at_next_setting(worker: Any) -> int:
    """The process ends where a setting has been made and its answer is yet to be sent."""
    import signal

    state = worker.hetero_noise.state
    write = state._write_scales

    def then_die() -> None:
        write()
        os.kill(os.getpid(), signal.SIGKILL)

    state._write_scales = then_die
    return os.getpid()


def look_away(worker: Any) -> None:
    """Nothing tells of new weights: not their version, nor a load, nor their bits."""
    from hetero_plugin.vllm import held

    held._version_kept = held._version
    held._version = lambda weight: (0, 0)
    for one in worker.hetero_noise.held.all:
        one._made_of = None
        one.fresh()
        one.outdate = one.was_rewritten = lambda: False


def look_again(worker: Any) -> None:
    from hetero_plugin.vllm import held

    held._version = held._version_kept
    for one in worker.hetero_noise.held.all:
        del one.outdate, one.was_rewritten


def write_weight(worker: Any, name: str, factor: float) -> None:
    """Past all that counts a write."""
    worker.model_runner.get_model().get_submodule(name).weight.data.mul_(factor)

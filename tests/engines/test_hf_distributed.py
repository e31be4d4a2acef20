"""Real processes on gloo: two ranks have the noise of one process, in every usual way to train."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from tests.engines.hf_ranks import WAYS, Gradients, alone, worker

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], Gradients | str]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, args=(port, str(folder)), nprocs=2, join=True)
    return torch.load(folder / "gradients.pt")


def gap(a: Gradients, b: Gradients) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / b[n].norm().clamp_min(1e-8)) for n in a)


@pytest.mark.parametrize("name", WAYS)
def test_two_ranks_reproduce_one_process(
    name: str, ranks: dict[tuple[str, bool], Gradients | str], tmp_path: Path
) -> None:
    """Gradients of the same global batch: the noisy gap is no more than three times the clean one
    (sums in another order), and the noise itself is far larger."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = {noisy: alone(WAYS[name], noisy, tmp_path) for noisy in (False, True)}
    finally:
        torch.set_num_threads(threads)
    two = {}
    for noisy in (False, True):
        found = ranks[name, noisy]
        assert not isinstance(found, str), found
        two[noisy] = found
    clean, noisy_gap = gap(two[False], one[False]), gap(two[True], one[True])
    effect = gap(one[True], one[False])
    print(f"{name}: clean {clean:.1e}, noisy {noisy_gap:.1e}, effect {effect:.1e}")
    assert noisy_gap <= max(3 * clean, 2e-6), (noisy_gap, clean)
    assert effect > (5 if WAYS[name].autocast else 100) * noisy_gap, (effect, noisy_gap)

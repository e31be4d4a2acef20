"""Real processes on gloo: two ranks have the noise of one process, in every usual way to train."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp

from tests.engines.hf_ranks import (
    ATTESTED,
    DTYPES,
    LOST,
    MOODS,
    WAYS,
    Gradients,
    alone,
    formatted_alone,
    worker,
)

pytestmark = pytest.mark.engine


Ranks = dict[tuple[str, str], Gradients | str]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Ranks:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(worker, args=(port, str(folder)), nprocs=2, join=True)
    return torch.load(folder / "gradients.pt")


def of(ranks: Ranks, name: str, mood: str) -> Gradients:
    found = ranks[name, mood]
    assert not isinstance(found, str), found
    return found


def gap(a: Gradients, b: Gradients) -> float:
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / b[n].norm().clamp_min(1e-8)) for n in a)


@pytest.mark.parametrize("name", WAYS)
def test_two_ranks_reproduce_one_process(name: str, ranks: Ranks, tmp_path: Path) -> None:
    """Gradients of the same global batch: the noisy gap is no more than three times the clean one
    (sums in another order), and the noise itself is far larger."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = {mood: alone(WAYS[name], mood, tmp_path) for mood in ("clean", "noisy")}
    finally:
        torch.set_num_threads(threads)
    clean = gap(of(ranks, name, "clean"), one["clean"])
    noisy = gap(of(ranks, name, "noisy"), one["noisy"])
    effect = gap(one["noisy"], one["clean"])
    print(f"{name}: clean {clean:.1e}, noisy {noisy:.1e}, effect {effect:.1e}")
    assert noisy <= max(3 * clean, 2e-6), (noisy, clean)
    assert effect > (5 if WAYS[name].autocast else 100) * noisy, (effect, noisy)


@pytest.mark.parametrize("mood", MOODS[2:])
@pytest.mark.parametrize("name", [name for name, way in WAYS.items() if not way.compiled])
def test_off_is_clean_on_two_ranks(name: str, mood: str, ranks: Ranks) -> None:
    """To the bit."""
    clean, off = of(ranks, name, "clean"), of(ranks, name, mood)
    assert clean.keys() == off.keys()
    assert all(torch.equal(clean[key], off[key]) for key in clean)


@pytest.mark.parametrize("case", ATTESTED)
def test_every_rank_of_a_sharded_model_is_attested(case: str, ranks: Ranks) -> None:
    """Each rank by itself, in passes that all of them make; a fault on one is that rank's."""
    first, second = str(ranks["attest", case]).split("\n")
    assert first == "rank 0: "
    if "lost" in case:
        assert f"not seen: {LOST}" in second, second
    else:
        assert second == "rank 1: "


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients_of_formats_are_those_of_one_model_bit_for_bit(dtype: str, ranks: Ranks) -> None:
    """Clipped, and stochastically rounded by address: FSDP2 on padded batches, and one unsharded
    model, whose gradients of the two batches are averaged as the ranks do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = formatted_alone(dtype)
        others = {
            key: formatted_alone(dtype, **{key: value})
            for key, value in (("ste", "identity"), ("gradient_rounding", "nearest"))
        }
    finally:
        torch.set_num_threads(threads)
    two = of(ranks, "formats", dtype)
    assert one.keys() == two.keys()
    differ = [name for name in one if not torch.equal(one[name], two[name])]
    assert not differ, differ
    for key, found in others.items():
        print(f"{dtype}: without {key}: {gap(found, one):.2g}")
        assert gap(found, one) > 1e-3, f"{key} must be seen to count"

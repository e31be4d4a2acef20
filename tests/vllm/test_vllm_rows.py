"""Which row is which: keys of a pass, and of the rows that the LM head is given."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("vllm")

from hetero_plugin import random
from hetero_plugin.config import NoiseConfig
from hetero_plugin.sites import Site
from hetero_plugin.state import NoiseState
from hetero_plugin.vllm.rows import RowKeyError, Rows

SITES = (Site("lm_head", "lm_head", None, 8, 4),)


@pytest.fixture
def rows() -> Rows:
    state = NoiseState(NoiseConfig(targets=["lm_head"], scale=0.1), SITES, max_rows=8)
    return Rows(state)


def run(rows: Rows, n: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    ids, positions = torch.arange(n, dtype=torch.int32) + 3, torch.arange(n) * 2
    rows.before_forward(torch.nn.Identity(), (), {"input_ids": ids, "positions": positions})
    return random.row_keys(ids, positions), torch.randn(n, 4)


def test_a_pass_writes_the_keys_of_its_rows(rows: Rows) -> None:
    keys, _ = run(rows)
    assert torch.equal(rows.state.draw.keys[:6], keys)


def test_picked_rows_get_their_own_keys_once(rows: Rows) -> None:
    indices = torch.tensor([5, 0, 3])
    rows.pick(indices)  # an engine may choose before the pass
    keys, hidden = run(rows)
    assert torch.equal(rows.keys_of(hidden[indices]), keys[indices])
    with pytest.raises(RowKeyError, match="did not say which"):
        rows.keys_of(hidden[indices])


def test_another_number_of_rows_than_picked_is_an_error(rows: Rows) -> None:
    _, hidden = run(rows)
    rows.pick(torch.tensor([1, 2]))
    with pytest.raises(RowKeyError, match=r"chose 2 rows .* passed 3"):
        rows.keys_of(hidden[:3])


@pytest.mark.parametrize("part", [slice(0, 6), slice(2, 5), slice(5, 6)])
def test_slices_of_the_pass_get_their_keys(rows: Rows, part: slice) -> None:
    keys, hidden = run(rows)
    with rows.slices_of(hidden):
        assert torch.equal(rows.keys_of(hidden[part]), keys[part])


def test_what_is_no_slice_of_the_pass_is_an_error(rows: Rows) -> None:
    _, hidden = run(rows)
    with rows.slices_of(hidden):
        for x in (hidden[:3].clone(), hidden[::2], hidden[1:4, :3], torch.randn(3, 4)):
            with pytest.raises(RowKeyError):
                rows.keys_of(x)


def test_a_slice_of_the_pass_before_is_an_error(rows: Rows) -> None:
    _, old = run(rows)
    rows.hold(old)
    run(rows)
    with pytest.raises(RowKeyError):
        rows.keys_of(old[:2])


def test_made_up_rows_only_when_the_engine_says_so(rows: Rows) -> None:
    with rows.dummy():
        assert rows.keys_of(torch.randn(3, 4)).tolist() == [0, 0, 0]
    with pytest.raises(RowKeyError):
        rows.keys_of(torch.randn(3, 4))


def test_a_pass_whose_rows_have_no_identity_is_an_error(rows: Rows) -> None:
    model, ids = torch.nn.Identity(), torch.arange(4)
    for given in (
        {"input_ids": None, "positions": ids},
        {"input_ids": ids},
        {"input_ids": ids, "positions": torch.zeros(3, 4, dtype=torch.int64)},
    ):
        with pytest.raises(RowKeyError):
            rows.before_forward(model, (), given)


def test_more_rows_than_the_buffer_holds_is_an_error(rows: Rows) -> None:
    with pytest.raises(RuntimeError, match="9 rows"):
        run(rows, 9)

"""Which columns of its sites each rank's part of a layer holds."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("vllm")

from vllm.model_executor.layers.linear import MergedColumnParallelLinear, QKVParallelLinear

from hetero_plugin import ConfigError
from hetero_plugin.sites import Site, fused_parts
from hetero_plugin.vllm import columns
from hetero_plugin.vllm.columns import check_norm, column_offsets, parts_of

HEADS, HEAD = 8, 4


def layer(cls: Any, ranks: int, rank: int, **attributes: Any) -> Any:
    made = cls.__new__(cls)
    made.__dict__.update(tp_size=ranks, tp_rank=rank, quant_method=None, **attributes)
    return made


def qkv(groups: int, ranks: int, rank: int) -> tuple[Any, list[int]]:
    made = layer(
        QKVParallelLinear,
        ranks,
        rank,
        head_size=HEAD,
        v_head_size=HEAD,
        total_num_heads=HEADS,
        total_num_kv_heads=groups,
        num_kv_head_replicas=max(1, ranks // groups),
    )
    mine = max(1, groups // ranks) * HEAD
    return made, [HEADS // ranks * HEAD, mine, mine]


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("groups", [1, 2, 8])
def test_one_matrix_for_queries_keys_and_values_is_one_site(groups: int, ranks: int) -> None:
    """The ranks' columns are those of the Hugging Face matrix, heads that several hold included."""
    keys = groups * HEAD
    queries = range(HEADS * HEAD)
    held: dict[int, list[int]] = {}
    for rank in range(ranks):
        made, sizes = qkv(groups, ranks, rank)
        parts = parts_of(made, "qkv", ["site"], sizes, list(column_offsets(made, sizes)))
        assert {name for name, _, _ in parts} == {"site"}
        assert len(parts) == (1 if ranks == 1 else 3), "whole rows in one piece"
        assert sum(width for _, width, _ in parts) == sum(sizes)
        for _, width, first in parts:
            for column in range(first, first + width):
                held.setdefault(column, []).append(rank)
    assert sorted(held) == list(range(len(queries) + 2 * keys))
    assert all(held[i] == [i // (len(queries) // ranks)] for i in queries)
    for start in (len(queries), len(queries) + keys):
        for head in range(groups):
            owners = held[start + head * HEAD]
            assert len(owners) == max(1, ranks // groups)
            assert owners[0] == head * ranks // groups


def test_one_matrix_for_gate_and_up_is_one_site() -> None:
    for rank in range(2):
        made = layer(MergedColumnParallelLinear, 2, rank, output_sizes=[12, 12])
        parts = parts_of(made, "gate_up", ["s"], [6, 6], list(column_offsets(made, [6, 6])))
        assert parts == [("s", 6, rank * 6), ("s", 6, 12 + rank * 6)]


def test_as_many_sites_as_parts_or_one_for_all() -> None:
    made, sizes = qkv(2, 1, 0)
    names = ["q", "k", "v"]
    assert parts_of(made, "qkv", names, sizes, [0, 0, 0]) == [
        ("q", 32, 0),
        ("k", 8, 0),
        ("v", 8, 0),
    ]
    for bad in (names[:2], [*names, "w"]):
        with pytest.raises(ConfigError, match=r"qkv .* does not hold that many parts"):
            parts_of(made, "qkv", bad, sizes, [0, 0, 0])
    with pytest.raises(ConfigError, match="does not hold"):
        parts_of(made, "qkv", ["one"], [], [])


def test_a_norm_of_all_heads_together_is_refused_where_ranks_share_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = Site("model.layers.0.self_attn.q_norm", "norm", 0, 32, None)
    by_head = Site("model.layers.0.self_attn.q_norm", "norm", 0, 32, None, 4)
    hidden = Site("model.layers.0.post_attention_layernorm", "norm", 0, 32, None)
    for ranks in (1, 2):
        monkeypatch.setattr(columns, "get_tensor_model_parallel_world_size", lambda n=ranks: n)
        check_norm(by_head, "qwen3")
        check_norm(hidden, "olmo2")
        if ranks == 1:
            check_norm(whole, "olmo2")
    with pytest.raises(ConfigError, match=r"tensor_parallel_size=2 .* Exclude '\*\.q_norm'"):
        check_norm(whole, "olmo2")


def test_the_families_say_what_the_engine_calls_them() -> None:
    assert fused_parts("phi3", "qkv_proj") == ("qkv_proj",)
    assert fused_parts("phi3", "act_fn") == ("activation_fn",)
    assert fused_parts("gemma2", "gate_up_proj") == ("gate_proj", "up_proj")

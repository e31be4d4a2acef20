"""What the HTTP endpoint takes and refuses, without a server."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("vllm")

from hypothesis import given, settings
from hypothesis import strategies as st

from hetero_plugin.vllm.serve.http import Refused, check, parse

SITES: list[dict[str, Any]] = [
    {"name": "model.layers.0.mlp.up_proj", "kind": "linear"},
    {"name": "lm_head", "kind": "lm_head"},
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
KEYS = st.sampled_from(["scale", "kind", "site", "enabled", "reset", "step", "wait", "scal"])


def test_a_change_is_what_was_asked_for() -> None:
    change = parse(b'{"scale": 0.1, "kind": "linear", "step": 3, "wait": false}')
    assert (change.scale, change.kind, change.step, change.wait) == (0.1, "linear", 3, False)
    assert parse(b'{"reset": true}').wait, "waiting is the default"
    check(change, SITES)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "object"),
        (b"{", "no JSON"),
        (b"[1]", "object"),
        (b'{"scale": NaN}', "finite"),
        (b'{"scale": true}', "True"),
        (b'{"enabled": 1}', "enabled"),
        (b'{"site": "lm_head"}', "nothing to do"),
        (b'{"step": 1, "site": "lm_head"}', "give one of these"),
    ],
)
def test_a_bad_body_is_refused_with_a_reason(body: bytes, said: str) -> None:
    with pytest.raises(Refused) as caught:
        parse(body)
    assert said in str(caught.value)


@pytest.mark.parametrize("where", [{"kind": "norm"}, {"site": "model.norm"}])
def test_a_place_that_is_not_there_is_refused(where: dict[str, str]) -> None:
    with pytest.raises(Refused, match=r"of this engine: linear, lm_head"):
        check(parse(json.dumps({"scale": 0.1, **where}).encode()), SITES)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.dictionaries(KEYS, JSON, max_size=4) | JSON | st.binary(max_size=20))
def test_any_body_is_a_change_or_a_refusal(body: Any) -> None:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        change = parse(raw)
    except Refused as error:
        assert str(error)
    else:
        assert change.scale is None or 0 <= change.scale < float("inf")

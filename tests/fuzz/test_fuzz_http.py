"""Thousands of bodies to the HTTP endpoint: a change that was asked for, or a refusal in our words.

Everything is real but the engine (tests/vllm/stand_in.py). After a refusal nothing has changed, and
after anything at all the status is JSON and no request is held. Seeds are fixed.
"""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

pytest.importorskip("vllm")

from hypothesis import example, given
from hypothesis import strategies as st

from tests.fuzz.examples import fixed
from tests.vllm.stand_in import SITES, SPEC, StandIn, app_of, ask, worker

FOREIGN = ("pydantic", "Traceback", "object at 0x", "NoneType", "Value error")
LARGEST, SMALLEST = (2.0 - 2.0**-23) * 2.0**127, 2.0**-126


NUMBER = (
    st.sampled_from(
        [0, 0.05, 1, -0.0, 1e39, 3.5e38, 1e-46, 1e-39, -1e-9, 1e308, 10**400, 2**64, True]
    )
    | st.floats()
    | st.integers()
    | st.integers(2**60, 2**66)
)
JUNK = st.recursive(
    st.none()
    | st.booleans()
    | NUMBER
    | st.text(max_size=8)
    | st.sampled_from(["5e-2", "NaN", "\x00", "\ud800", "lm_head", "x" * 3000]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=5,
)
KINDS = sorted({site.kind for site in SITES})
NAMES = [site.name for site in SITES]
AQN = st.fixed_dictionaries(
    {},
    optional={
        "sigma": NUMBER | JUNK,
        "step": NUMBER | JUNK,
        "enabled": st.booleans() | JUNK,
        "off": st.booleans(),
    },
)
BODY = st.fixed_dictionaries(
    {},
    optional={
        "scale": NUMBER | JUNK,
        "kind": st.sampled_from([*KINDS, "liner"]) | JUNK,
        "site": st.sampled_from([*NAMES[:9], "model.layers.9.mlp.up_proj"]) | JUNK,
        "enabled": st.booleans() | JUNK,
        "reset": st.booleans() | JUNK,
        "step": st.integers(0, 9) | NUMBER | JUNK,
        "wait": st.booleans() | JUNK,
        "aqn": AQN | JUNK,
        "scal": NUMBER,
    },
)
ENGINE = StandIn()
APP = app_of(ENGINE)
PLAIN = StandIn(worker({"rules": SPEC["rules"]}))
PLAIN_APP = app_of(PLAIN)


def tried(body: bytes, engine: StandIn = ENGINE, app: Any = APP) -> dict[str, Any] | None:
    """What a body was answered with if it was taken, after all that must hold in any case."""
    before = engine.settings()
    status, text = asyncio.run(ask(app, body))
    assert status in (200, 413, 422), (status, text)
    assert not engine.paused
    now = engine.settings()  # raises where JSON can't say it
    if status == 200:
        found = json.loads(text)
        assert all(v is None or math.isfinite(v) for s in found["scales"].values() for v in s)
        assert math.isfinite(found["sigma"] or 0.0)
        return found
    assert now == before, "a refused request has changed something"
    words = json.loads(text)["error"]["message"]
    assert words.strip() and not any(word in words for word in FOREIGN), words
    return None


@fixed(2500)
@given(BODY)
@example({"scale": 1e39})
@example({"aqn": {"sigma": 1e39}})
@example({"scale": 0.1, "aqn": {"enabled": False, "sigma": 1.0}})
def test_objects(body: dict[str, Any]) -> None:
    found = tried(json.dumps(body).encode())
    if found is None:
        return
    assert not set(body) - {"scale", "kind", "site", "enabled", "reset", "step", "wait", "aqn"}
    if (scale := body.get("scale")) is not None:
        assert scale == 0 or SMALLEST <= scale <= LARGEST
        sites = [
            site
            for site in ENGINE.state.slots
            if body.get("kind") in (None, site.site.kind)
            and body.get("site") in (None, site.site.name)
        ]
        assert sites
        assert all(ENGINE.state._base[s.index] == pytest.approx(scale) for s in sites)
    if body.get("step") is not None:
        assert found["step"] == body["step"]
    aqn = body.get("aqn") or {}
    if aqn.get("sigma") is not None:
        assert found["sigma"] == pytest.approx(aqn["sigma"])
    if aqn.get("enabled") is False or (body.get("enabled") is False and "kind" not in body):
        assert found["aqn_enabled"] is False or body.get("site") is not None


@fixed(400)
@given(BODY)
def test_objects_for_an_engine_without_aqn(body: dict[str, Any]) -> None:
    found = tried(json.dumps(body).encode(), PLAIN, PLAIN_APP)
    assert found is None or body.get("aqn") is None


@fixed(1200)
@given(BODY, st.data())
def test_json_that_was_cut_or_mixed_up(body: dict[str, Any], draw: st.DataObject) -> None:
    text = json.dumps(body, ensure_ascii=draw.draw(st.booleans())).encode("utf-8", "surrogatepass")
    cut = draw.draw(st.integers(0, len(text)))
    insert = draw.draw(
        st.sampled_from([b"", b'"', b"{", b"[" * 2000, b"}", b",", b"\\u0000", b"NaN", b"\xff"])
        | st.binary(max_size=4)
    )
    tried(text[:cut] + insert + text[cut:])


@fixed(600)
@given(JUNK | st.binary(max_size=20))
@example([])
@example(b"")
@example(b"[" * 65_000)
@example(b'{"aqn":' * 9_000)
@example(b" " * 70_000)
@example(b'{"step": ' + b"1" * 60_000 + b"}")
@example(b'{"' + b"k" * 60_000 + b'": 1}')
@example(b'{"site": "' + b"\\ud800" * 9_000 + b'", "scale": 1}')
@example(b'{"scale": 1, "\\u0073cale": 2}')
def test_anything_at_all(body: Any) -> None:
    tried(body if isinstance(body, bytes) else json.dumps(body).encode())


@fixed(300)
@given(st.binary(max_size=12))
def test_queries(query: bytes) -> None:
    for words in (query, b"sites=" + query, b"attestation=" + query + b"&sites=1"):
        status, text = asyncio.run(ask(APP, query=words))
        assert status in (200, 400, 422) and json.loads(text)

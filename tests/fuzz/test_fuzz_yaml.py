"""Every way in which YAML can grow: refused in our words, in little time, before it unfolds.

A specification's text is 200,000 characters at most; nothing that fits into it may take long.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero_plugin.config import ConfigError
from hetero_plugin.config.read import read_yaml
from tests.fuzz.examples import fixed

SECONDS = 10.0
"""A loaded machine included. Worst here: 1 s. What this page refuses would take hours."""


def chain(step: str, length: int, first: str = "a0: &a0 {x: 1}") -> str:
    """Lines that each use the one before: ``step`` with I for this one and J for the last."""
    lines = [step.replace("I", str(i)).replace("J", str(i - 1)) for i in range(1, length)]
    return "\n".join([first, *lines])


def filled(piece: str, size: int = 190_000) -> str:
    return piece * (size // len(piece))


REFUSED: dict[str, str] = {
    "merge of a pair": chain("aI: &aI {<<: [*aJ, *aJ]}", 16),
    "merge of a pair, 40 levels": chain("aI: &aI {<<: [*aJ, *aJ]}", 41),
    "merge of ten": chain("aI: &aI {<<: [*aJ, *aJ, *aJ, *aJ, *aJ, *aJ, *aJ, *aJ, *aJ, *aJ]}", 9),
    "merge inside a merge": chain("aI: &aI {<<: {<<: [*aJ, *aJ]}, yI: 1}", 30),
    "two merge keys": chain("aI: &aI {<<: *aJ, yI: 1, <<: *aJ}", 30),
    "merge of anchors made on the spot": chain("aI: &aI {<<: [&bI {<<: *aJ}, *bI, *aJ]}", 30),
    "merge and alias by turns": chain("aI: &aI {<<: [*aJ, *aJ], yI: [*aJ, *aJ]}", 20),
    "merge at the root": chain("aI: &aI {<<: [*aJ, *aJ]}", 30) + "\n<<: [*a29, *a29]",
    "a chain of merges, deeper than Python": chain("aI: &aI {<<: *aJ}", 4000),
    "a chain of aliases, deeper than Python": chain("aI: &aI [*aJ]", 4000),
    "a mapping merged into itself": "a: &a {x: 1, <<: *a}",
    "aliases in lists": chain("aI: &aI [*aJ, *aJ, *aJ]", 30),
    "aliases in mappings": chain("aI: &aI {p: *aJ, q: *aJ}", 40),
    "aliases of a long text": "a: &a " + "x" * 20_000 + "\nb: [" + "*a, " * 2000 + "]",
    "aliases as keys": chain("aI: &aI {? *aJ : *aJ}", 40),
    "deep lists": "[" * 60_000,
    "deep mappings": "{a: " * 40_000,
    "deep blocks": "- " * 90_000,
    "deep keys": "? " * 90_000,
    "many values": filled("- 1\n"),
    "many documents": filled("--- a\n"),
    "two documents": "scale: 0.1\n---\nscale: 0.2\n",
    "a number of 190,000 digits": "seed: " + filled("9"),
    "hexadecimal": "seed: 0x" + filled("f"),
    "binary": "seed: 0b" + filled("1"),
    "octal": "seed: 0" + filled("7"),
    "base 60": "seed: 1" + filled(":59"),
    "base 60, a fraction": "seed: 1" + filled(":59") + ".5",
    "a long fraction": "scale: 0." + filled("1"),
    "underscores": "seed: 1" + filled("_0"),
    "a long tag": "a: !" + filled("x") + " 1",
    "a long directive": "%YAML " + filled("1") + ".1\n--- a",
    "more text than there may be": "# " + "x" * 200_000,
    "a date": "seed: 2001-01-01",
    "a date that there is not": "seed: 2001-02-30",
    "a time with a zone": "seed: 0001-01-01 00:00:00 +23:59",
    "bytes": "a: !!binary " + filled("YWJj"),
    "a set": "a: !!set {b, c}",
    "pairs": "a: !!pairs [b: 1, b: 2]",
    "an ordered mapping": "a: !!omap [b: 1]",
    "an object": "a: !!python/object:os.system {}",
    "a tag that does not fit its value": "a: !!bool perhaps",
    "an integer without digits": 'a: !!int ""',
    "a fraction without digits": 'a: !!float ""',
    "an integer that is a list": "a: !!int [1]",
    "a list that is a mapping": "a: !!seq {b: 1}",
    "a merge with a number": "a: {<<: 1}",
    "a merge as a value": "a: <<",
    "a key twice": "a: 1\nb: 2\na: 3",
    "a key twice beside a merge": "b: &b {x: 1}\na: {<<: *b, y: 1, y: 2}",
}
TAKEN = {
    "comments": filled("# c\n"),
    "blank lines": filled("\n"),
    "a long word": "a: " + filled("x"),
    "many words": "a: " + filled("x "),
    "a block": "a: |\n" + filled("  x\n"),
    "escapes": 'a: "' + filled("\\n") + '"',
    "anchors": "[" + ",".join(f"&a{i} x" for i in range(15_000)) + "]",
    "15,000 numbers": filled("- 1\n", 60_000),
}


def within_bounds(call: Callable[[], Any]) -> Any:
    """What ``call`` returns or the ConfigError that it raises; in bounded time of this process."""
    started = time.process_time()
    try:
        result = call()
    except ConfigError as error:
        result = error
        assert "\n" not in str(error) and len(str(error)) < 500, error
        assert not any(word in str(error) for word in ("Traceback", "object at", "Error(")), error
    seconds = time.process_time() - started
    assert seconds < SECONDS, f"{seconds:.1f} s"
    return result


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    assert isinstance(within_bounds(lambda: read_yaml(REFUSED[name])), ConfigError)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", TAKEN)
def test_large_but_harmless(name: str) -> None:
    assert not isinstance(within_bounds(lambda: read_yaml(TAKEN[name])), ConfigError)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("b: &b {x: 1, y: 2}\na: {<<: *b, y: 3}", {"b": {"x": 1, "y": 2}, "a": {"x": 1, "y": 3}}),
        ("{k: &a {<<: &z {x: 0, y: 1}, x: 1}, <<: *a}", {"k": {"x": 1, "y": 1}, "x": 1, "y": 1}),
        ("a: &a [1, 2]\nb: [*a, *a]", {"a": [1, 2], "b": [[1, 2], [1, 2]]}),
        ("seed: 0x10\nscale: 5.0e-2\nn: 1_000", {"seed": 16, "scale": 0.05, "n": 1000}),
        ("a: '1:30'\nb: \"010\"\nc: '2001-01-01'", {"a": "1:30", "b": "010", "c": "2001-01-01"}),
        ("seed: 0\nscale: 0.5\nm: -7", {"seed": 0, "scale": 0.5, "m": -7}),
    ],
)
def test_what_yaml_says_is_what_is_read(text: str, value: Any) -> None:
    assert read_yaml(text) == value


@pytest.mark.parametrize("number", ["1:30", "-1:30:00", "1:30.5", "010", "-017", "0_7", "00"])
def test_a_number_that_would_be_another_one_is_refused(number: str) -> None:
    """YAML 1.1 reads a range written with a colon as base 60, a leading zero as base 8."""
    with pytest.raises(ConfigError, match=r"base (60|8)"):
        read_yaml(f"layers: [{number}]")


FORMS = (
    *("<<: {one}", "<<: [{all}]", "<<: {{<<: {one}, z: 1}}", "k{j}: {one}", "k{j}: [{all}]"),
    *("? [{all}]\n  : 1", "k{j}: 0x1f"),
)


@fixed(600)
@given(seed=st.integers(0, 2**32), lines=st.integers(1, 60))
def test_random_graphs_of_aliases_and_merges(seed: int, lines: int) -> None:
    """Whatever refers to whatever: data of a size that may be, or our error."""
    draw = random.Random(seed)
    text = ["a0: &a0 {x: 1}"]
    for i in range(1, lines):
        parts = []
        for j in range(draw.randint(1, 4)):
            of = [f"*a{draw.randint(max(0, i - 3), i - 1)}" for _ in range(draw.randint(1, 3))]
            form = draw.choice(FORMS)
            parts.append(form.format(one=of[0], all=", ".join(of), j=j))
        text.append(f"a{i}: &a{i} {{{', '.join(parts)}}}")
    within_bounds(lambda: read_yaml("\n".join(text)))

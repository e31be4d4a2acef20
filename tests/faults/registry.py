"""The fault matrix: every way to lose, spoil, double or leak the noise that is tried on purpose.

A fault is a function that breaks something real and returns the words in which it was noticed; it
raises `Silent` where nothing was. ``docs/faults.md`` is written from this registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

CAUGHT_BY = {
    "error": "an error of ours",
    "attestation": "the attestation is refused",
    "values": "an assertion on values: the fault has no effect, or shows in numbers",
    "warning": "one line in the log",
}


class Silent(AssertionError):
    """A fault that nobody noticed."""


@dataclass(frozen=True)
class Fault:
    """One fault and the function that tries it."""

    name: str
    lost: str
    injected: str
    caught: str
    by: str
    engine: str
    run: Callable[..., str]


FAULTS: list[Fault] = []


def fault(lost: str, injected: str, caught: str, *, by: str, engine: str) -> Callable[..., Any]:
    """Registers the decorated function; its name, with spaces, is the fault's.

    Args:
        lost: what would be lost, or wrong.
        injected: how it is done here.
        caught: how it is noticed.
        by: a key of `CAUGHT_BY`.
        engine: where: core, cli, hf, hf compiled, fsdp, vllm, vllm tp, vllm lora, verl.
    """
    assert by in CAUGHT_BY, by

    def register(function: Callable[..., str]) -> Callable[..., str]:
        name = function.__name__.replace("_", " ")
        assert name not in {one.name for one in FAULTS}, name
        FAULTS.append(Fault(name, lost, injected, caught, by, engine, function))
        return function

    return register


def noticed(condition: bool, words: str) -> str:
    """``words`` if the fault was noticed.

    Raises:
        Silent: it was not.
    """
    if not condition:
        raise Silent(f"SILENT: not so: {words}")
    return words


def refused(call: Callable[[], Any], *words: str, kind: type[BaseException]) -> str:
    """The error that ``call`` raises, which must be of ``kind`` and hold all the words.

    Raises:
        Silent: nothing was raised, or the text does not say what is wrong.
    """
    try:
        call()
    except kind as error:
        text = str(error)
        missing = [word for word in words if word not in text]
        if missing:
            raise Silent(f"SILENT: the error does not say {missing}: {text}") from error
        return f"{type(error).__name__}: {text}"
    raise Silent("SILENT: nothing was raised")


def page(faults: Iterable[Fault]) -> str:
    """``docs/faults.md``."""
    faults = list(faults)
    lines = [
        "# The fault matrix",
        "",
        "Noise that is absent, wrong, doubled or leaked, on purpose, in real processes and models:",
        "each fault below is put into running code by the test suite and has to be noticed.",
        "",
        "```bash",
        "python -m pytest tests/faults tests/engines -k test_fault_is_noticed",
        "```",
        "",
        "ends with the line `fault matrix: N tried, N caught, 0 silent`. This page is written from",
        "the registry (`python -m tests.faults.registry`); a test compares the two.",
        "",
        f"**{len(faults)} faults: {len(faults)} tried, {len(faults)} caught, 0 silent.** Caught by "
        + ", ".join(f"{name} {sum(one.by == name for one in faults)}" for name in CAUGHT_BY)
        + ".",
        "",
        *(f"- *{name}*: {what}" for name, what in CAUGHT_BY.items()),
        "",
        "| fault | what is lost | how it is done here | how it is noticed | by | engine |",
        "|---|---|---|---|---|---|",
    ]
    for one in faults:
        cells = (one.name, one.lost, one.injected, one.caught, one.by, one.engine)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, "", *_hooks()]) + "\n"


def _hooks() -> list[str]:
    from hetero_plugin.evaluation.faults import HOOKS

    lines = [
        "## Try it yourself",
        "",
        "`hetero-noise attest --inject FAULT` puts one of these into the engine first. The exit",
        "status is then 1, and the words after `REFUSED` name the site or process.",
        "",
        "| `--inject` | what it does | engines |",
        "|---|---|---|",
    ]
    for name, hook in HOOKS.items():
        word = f"{name}:SITE" if hook.site else name
        lines.append(f"| `{word}` | {hook.what} | {', '.join(hook.engines)} |")
    return lines


def everything() -> list[Fault]:
    """All faults, those of engines too."""
    from tests.faults import (  # noqa: F401
        cli_second,
        compat_second,
        core,
        hf_attested,
        hf_formats,
        hf_lost,
        hf_profiles,
        hf_rows,
        hf_state,
        hf_values,
        http_second,
        lora_faults,
        peft_second,
        records,
        state_second,
        tp_faults,
        verl_faults,
        verl_second,
        vllm_faults,
        vllm_second,
    )

    order = ("core", "cli", "hf", "hf compiled", "fsdp", "vllm", "vllm tp", "vllm lora", "verl")
    return sorted(registered(), key=lambda one: order.index(one.engine))


def registered() -> list[Fault]:
    """The registry under the name by which everybody imports it."""
    from tests.faults.registry import FAULTS as shared

    return shared


if __name__ == "__main__":
    from pathlib import Path

    target = Path(__file__).parents[2] / "docs" / "faults.md"
    target.write_text(page(everything()), encoding="utf-8")
    print(target)

"""What is known of a data source: its answers' budget, and who judges them.

A source that is not known is refused, with what to give: a budget that is too small turns every
answer wrong, at every noise level alike, and that looks like robustness.
"""

from __future__ import annotations

from dataclasses import dataclass

from hetero_plugin.config.problems import ConfigError

GENERATED = "hetero_noise/"
GSM8K = "openai/gsm8k"


@dataclass(frozen=True)
class Source:
    """A data source: tokens that an answer may take (None: unknown), and the rule that judges."""

    max_tokens: int | None
    scorer: str


# GSM8K: the recipes' response length. MATH: long enough that a 1.5B model seldom reaches it; where
# it does, the verdict is withheld.
_MATH = Source(2048, "verl: the last \\boxed{} equals the reference")
_KNOWN = {
    GSM8K: Source(1024, "verl, strict: the number after the last '#### ' is the reference"),
    "lighteval/MATH": _MATH,
    "DigitalLearningGmbH/MATH-lighteval": _MATH,
    "HuggingFaceH4/MATH-500": _MATH,
}
# verl judges these by running the answer as a program, on this machine.
_RUN_PROGRAMS = frozenset({"codecontests", "apps", "codeforces", "taco"})


def is_known(data_source: str) -> bool:
    """Whether the source's rule and budget are known here."""
    return data_source in _KNOWN or data_source.startswith(GENERATED)


def source_of(data_source: str) -> Source:
    """What is known of a data source. Of one that only verl may know, the budget is not."""
    if data_source.startswith(GENERATED):
        return Source(16, "the whole answer is the reference, exactly")
    if data_source in _RUN_PROGRAMS:
        raise ConfigError(
            f"data source {data_source!r}: verl judges it by running the answers as programs, "
            "which an evaluation doesn't do; give --reward FILE.py:function"
        )
    return _KNOWN.get(data_source) or Source(None, f"verl: its rule for {data_source}")


def answer_tokens(data_source: str, given: int | None) -> int:
    """The budget of an answer, in tokens.

    Args:
        data_source: of the questions.
        given: what the user asks for; None: what is known of the source.

    Raises:
        ConfigError: nothing is given, and the source is not known; or it is under 1.
    """
    if given is not None:
        if given < 1:
            raise ConfigError(f"max_tokens is {given}; it should be at least 1")
        return given
    known = source_of(data_source).max_tokens if is_known(data_source) else None
    if known is None:
        raise ConfigError(
            f"data source {data_source!r}: how long its answers get is not known (known are "
            f"{', '.join(_KNOWN)} and {GENERATED}…); give --max-tokens, the response length that "
            "the model was trained with, and if verl has no scorer for it --reward FILE.py:function"
        )
    return known

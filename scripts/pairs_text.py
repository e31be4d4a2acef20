"""The words and tables of docs/pairs.md, from the committed profiles and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hetero_plugin.errors.profile import Profile
from scripts.pairs_page import MEASURED, PAIRS, Pair

_LITTLE = 0.01
"""Share of the squared error that a group of bins hardly matters under."""
BEGIN, END = "<!-- pairs: begin -->", "<!-- pairs: end -->"


@dataclass(frozen=True)
class Published:
    """A gap that someone else measured.

    Args:
        what: was compared.
        where: it is said.
        said: in words.
        wanted: measure and value of `hetero-noise dial`; None: no such measure.
        read: whether we read it there, or have it from someone who did.
    """

    what: str
    where: str
    said: str
    wanted: tuple[str, float] | None
    read: bool = True


PUBLISHED = (
    Published("vLLM against the trainer, Qwen2.5-7B, all in float32", "Fast-LLM#525",
              "RMS Δ log-prob 0.0017", None),
    Published("the same in bfloat16, the head in float32", "Fast-LLM#525",
              "RMS Δ log-prob 0.0227", None),
    Published("the same, the head in bfloat16 too", "Fast-LLM#525", "RMS Δ log-prob 0.0392", None),
    Published("vLLM against the bfloat16 trainer, Qwen2.5-0.5B", "trl#6789",
              "sd of Δ log-prob 0.0499; 7.5 % of ratios outside [0.9, 1.1]", ("ratio-out", 0.075)),
    Published("the trainer against itself, chunks of 1 and of 8", "trl#6789",
              "sd of Δ log-prob 0.0554; 8.0 % of ratios outside", ("ratio-out", 0.08)),
    Published("vLLM against the trainer, Qwen3-4B", "vime#64", "mean ǀΔ log-probǀ 0.011",
              ("mean-dlogp", 0.011), read=False),
    Published("Hugging Face against vLLM, four layers of Qwen3-Omni-30B", "verl-omni#637",
              "mean ǀΔ log-probǀ 0.064; GEMMs equal, 26 % of a norm's outputs differ",
              ("mean-dlogp", 0.064)),
    Published("8-bit weights (q8_0)", "llama.cpp#6936", "KL 0.00136", ("kl", 0.00136), read=False),
    Published("a bar for mismatch in RL", "prime-rl", "KL 0.015", ("kl", 0.015), read=False),
    Published("NVFP4 of Qwen3.6-27B against bfloat16", "llama.cpp#23572",
              "KL 0.0486, another top token at 8.3 %", ("kl", 0.0486)),
)  # fmt: skip


def replaced(text: str, made: str) -> str:
    """A page's text with what is made between its marks.

    Raises:
        ValueError: it has no marks.
    """
    if not 0 <= text.find(BEGIN) < text.find(END):
        raise ValueError(f"there is no {BEGIN} before {END} in the page")
    before, after = text.split(BEGIN)[0], text.split(END)[1]
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def page(data: Mapping[str, Any], profiles: Mapping[str, Profile]) -> str:
    """What stands between the marks of docs/pairs.md.

    Args:
        data: of `pairs.json`.
        profiles: by name of the pair.
    """
    recorded = data.get("recorded", {})
    parts = [_overview(recorded, profiles)]
    parts.append(
        "\n".join(
            _same(pair, recorded[pair.name])
            for pair in PAIRS
            if pair.name in recorded and pair.name not in profiles
        )
    )
    checks = data.get("checks", {})
    parts.append(_summary(profiles, checks))
    if checks:
        parts.append(_explained(checks))
    for pair in PAIRS:
        if pair.name in profiles:
            parts.append(_section(pair, recorded[pair.name], profiles[pair.name],
                                  checks.get(pair.name)))  # fmt: skip
    if data.get("gaps"):
        parts.append(_gaps(data["gaps"], data.get("dials", [])))
    return "\n\n".join(part.strip() for part in parts)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _percent(value: float) -> str:
    return "0" if value == 0 else f"{100 * value:.3g} %"


def _number(value: float | None) -> str:
    """Three digits; small ones as 1.2e-5; of a bound that is not known a question mark."""
    if value is None:
        return "?"
    return f"{value:.2e}".replace("e-0", "e-") if 0 < abs(value) < 1e-3 else f"{value:.3g}"


def _span(row: Mapping[str, float], percent: bool = False) -> str:
    if percent:
        return f"{100 * row['value']:.2g} % [{100 * row['low']:.2g}, {100 * row['high']:.2g}]"
    return f"{_number(row['value'])} [{_number(row['low'])}, {_number(row['high'])}]"


# ---- what was recorded ----


def _overview(recorded: Mapping[str, Any], profiles: Mapping[str, Profile]) -> str:
    rows = []
    for pair in PAIRS:
        if pair.name not in profiles:
            continue
        size = pair.path.stat().st_size
        differ = [
            f"{one['kind']} K {one['k']}: {_percent(one['changed'] / one['elements'])}"
            for one in recorded[pair.name][-1]["kinds"]
            if one["changed"]
        ]
        rows.append(
            [
                f"[`{pair.name}`](#{pair.name})",
                pair.about,
                "<br>".join(differ),
                f"{size / 1e3:.0f} kB",
            ]
        )
    return _table(("profile", "A, and B", "outputs that differ", "file"), rows)


def _same(pair: Pair, recorded: Sequence[Mapping[str, Any]]) -> str:
    kinds = recorded[-1]["kinds"]
    names = list(dict.fromkeys(one["kind"] for one in kinds))
    return (
        f"- **{pair.name}** ({pair.about}): all {sum(one['elements'] for one in kinds):,} outputs "
        f"of {', '.join(names)} are equal to the bit. There is no profile."
    )


def _summary(profiles: Mapping[str, Profile], checks: Mapping[str, Any]) -> str:
    """Which profiles hold in what was held out and end to end, in words."""
    lines = []
    for part in ("rows", "layers"):
        good, bad, few = [], [], []
        for name, profile in profiles.items():
            held = [row["held_out"][part] for row in profile.report["tables"]]
            judged = [one["within"]["profile"] for one in held if one is not None]
            if not any(one["judged"] for one in judged):
                few.append(name)
            elif all(one["all"] == one["judged"] for one in judged):
                good.append(name)
            else:
                bad.append(name)
        lines.append(
            f"- Held-out {part}, all judged groups within 10 %: {_names(good)}. Not all: "
            f"{_names(bad)}. Too few changed elements: {_names(few)}."
        )
    better = [
        name
        for name, profile in profiles.items()
        if all(
            one["better"]
            for row in profile.report["tables"]
            for one in row["held_out"].values()
            if one is not None and row["changed"]
        )
    ]
    others = [name for name in profiles if name not in better]
    lines.append(
        f"- Better than a Gaussian in rows and layers: {_names(better)}. Not: {_names(others)}, "
        "for which `relative_gaussian` at the table's scale does as well or better."
    )
    kl = [name for name, check in checks.items() if check["within"]["kl"]]
    rest = [name for name in checks if name not in kl]
    lines.append(
        f"- End to end, KL within the interval of A against B: {_names(kl)}. Not: {_names(rest)}."
    )
    return "## What holds\n\n" + "\n".join(lines)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


# ---- one pair ----


def _section(
    pair: Pair,
    recorded: Sequence[Mapping[str, Any]],
    profile: Profile,
    check: Mapping[str, Any] | None,
) -> str:
    lines = [f"## {pair.name}", f"A, and B: {pair.about}.", f"sha256 `{profile.digest}`."]
    lines.append(_recorded(recorded))
    rows = profile.report["tables"]
    lines += [_fitted(rows), _held(rows)]
    said = _said(profile)
    if said:
        lines.append("\n".join(f"- {one}" for one in said))
    if check is not None:
        lines.append(_three(check))
    elif not (pair.as_b or pair.environment):
        lines.append("End to end it is not checked: B can't be had within one process.")
    return "\n\n".join(lines)


def _recorded(recorded: Sequence[Mapping[str, Any]]) -> str:
    said = []
    for one in recorded:
        kinds = ", ".join(
            f"{k['kind']} K {k['k']} {_percent(k['changed'] / k['elements'])} of {k['elements']:,}"
            for k in one["kinds"]
        )
        said.append(
            f"Recorded: {one['rows']:,} rows, up to {one['columns']} columns, {one['layers']} "
            f"layers, {one['repeats']} time{'s' if one['repeats'] > 1 else ''}. Outputs that "
            f"differ: {kinds}."
        )
    if len(said) > 1:
        said[-1] += " The profile is of this one."
    return "\n\n".join(said)


def _fitted(rows: Sequence[Mapping[str, Any]]) -> str:
    return _table(
        ("table", "fitted elements", "changed", "RMS / row's", "Gaussian's scale", "drawn anew"),
        [
            [
                f"{row['kind']} K {row['k']}",
                f"{row['elements']:,}",
                _percent(row["changed"]),
                _number(row["rms_of_row"]),
                _number(row["gaussian_scale"]),
                _percent(row["fresh"]) if row["repeated"] else "not known",
            ]
            for row in rows
        ],
    )


def _held(rows: Sequence[Mapping[str, Any]]) -> str:
    made = []
    for row in rows:
        for part, found in row["held_out"].items():
            if found is None or not (found["changed"] or row["changed"]):
                continue
            within, score = found["within"]["profile"], found["score"]
            over, seen = found["overall"]["profile"], found["overall"]["measured"]
            made.append(
                [
                    f"{row['kind']} K {row['k']}, {part}",
                    f"{found['changed']:,}",
                    f"{within['all']} of {within['judged']}" if within["judged"] else "too few",
                    _worst(found["judged"]),
                    f"{_percent(seen['changed'])}, {_percent(over['changed'])}",
                    f"{over['rms'] / seen['rms']:.2f}" if seen["rms"] else "–",
                    ", ".join(f"{100 * one['bias'] / seen['rms']:+.1f}" for one in (seen, over))
                    + " %"
                    if seen["rms"]
                    else "–",
                    f"{score['over_gaussian']:+.2g} ± {score['error']:.2g}"
                    if score["error"] is not None
                    else "–",
                    "yes" if found["better"] else "no",
                ]
            )
    head = (
        "held out",
        "changed elements",
        "groups of bins within 10 %",
        "worst group: changed, RMS, mean",
        "changed: measured, profile",
        "RMS, profile / measured",
        "mean / RMS: measured, profile",
        "over a Gaussian, nats / 1000",
        "better than it",
    )
    return _table(head, made)


def _worst(groups: Sequence[Mapping[str, Any]]) -> str:
    """Of all judged groups the largest deviations, in percent: the mean's of the RMS."""
    if not groups:
        return "–"
    found = []
    for key in ("changed", "rms", "bias"):
        base = [one["measured"]["rms" if key == "bias" else key] for one in groups]
        away = [
            abs(one["profile"][key] - one["measured"][key]) / size if size else 0.0
            for one, size in zip(groups, base, strict=True)
        ]
        found.append(f"{100 * max(away):.1f}")
    return ", ".join(found) + " %"


def _said(profile: Profile) -> list[str]:
    """What the report says of structure and of correlation, and of the smallest elements."""
    found = []
    for text in profile.report["sentences"]:
        # What all candidates explain, none does.
        if ("explained" in text and text.count(" or ") < 4) or "correlate" in text:
            found.append(f"{text}.")
    for row in profile.report["tables"]:
        for part, held in row["held_out"].items():
            if held is not None:
                found += _of_the_smallest(f"{row['kind']} at K {row['k']}, held-out {part}", held)
    return found


def _of_the_smallest(what: str, held: Mapping[str, Any]) -> list[str]:
    """How much of the error is in a group that fails because of elements next to zero."""
    if not held["judged"] or held["judged"][0]["agrees"]["profile"]["rms"]:
        return []
    group, over = held["judged"][0], held["overall"]
    parts = [
        group["elements"] * group[name]["rms"] ** 2
        / (over["elements"] * over[name]["rms"] ** 2)
        for name in ("measured", "profile")
    ]  # fmt: skip
    if max(parts) > _LITTLE:
        return []
    return [
        f"{what}: the group that is wrong in RMS is of elements next to zero, with "
        f"{_percent(parts[0])} of the squared error that was measured and {_percent(parts[1])} of "
        "the profile's."
    ]


# ---- end to end ----


def _three(check: Mapping[str, Any]) -> str:
    said = {"kl": "KL", "gap": "ǀΔ log-probǀ", "flips": "other top token"}
    rows = []
    for name, words in said.items():
        percent = name == "flips"
        ratio = check["ratio"][name]
        rows.append(
            [
                words,
                *(
                    _span(check["pairs"][p][name], percent)
                    for p in ("a_b", "a_profile", "profile_b")
                ),
                "–" if ratio is None else _span(ratio),
                "yes" if check["within"][name] else "**no**",
            ]
        )
    head = ("mean over tokens", "A, B", "A, A + profile", "A + profile, B", "profile / B", "within")
    return (
        f"End to end, at {', '.join(check['drawn'])}: {check['tokens']} tokens of "
        f"{check['text']} in {check['windows']} windows of {check['context']}, one draw.\n\n"
        + _table(head, rows)
    )


def _explained(checks: Mapping[str, Any]) -> str:
    rows = []
    for pair in PAIRS:
        if pair.name not in checks:
            continue
        by_kind = checks[pair.name]["by_kind"]
        longest = max(by_kind, key=lambda kinds: kinds.count("+"))
        whole = by_kind[longest]
        for kinds, found in by_kind.items():
            rows.append(
                [
                    f"`{pair.name}`" if kinds == next(iter(by_kind)) else "",
                    f"{kinds}, one setting" if pair.setting else kinds,
                    _span(found["kl"]),
                    _span(found["gap"]),
                    _span(found["flips"], percent=True),
                    f"{found['kl']['value'] / whole['kl']['value']:.0%}".replace("%", " %"),
                ]
            )
    return (
        "## What each kind of operator explains\n\n"
        "A as it is, and B at one kind of operator at a time, the rest as A. Kinds that are not "
        "named are equal to the bit when each operator is run alone, and explain nothing; so is "
        "attention in all pairs but the control, where it can't be replaced within a model.\n\n"
        + _table(("pair", "B at", "KL", "ǀΔ log-probǀ", "other top token", "of all KL"), rows)
        + "\n\nShares don't sum to 100 %: one changed operator changes what all later ones read, "
        "so that few differences do nearly as much as many."
    )


# ---- published gaps ----


def _gaps(gaps: Mapping[str, Any], dials: Sequence[Mapping[str, Any]]) -> str:
    one = next(iter(gaps.values()))
    rows = []
    for name, found in gaps.items():
        m = found["measures"]
        rows.append(
            [
                f"`{name}`",
                _span(m["kl_mean"]),
                _span(m["delta_logp_mean_abs"]),
                _span(m["delta_logp_rms"]),
                _span(m["ratio_out"], percent=True),
                _span(
                    {
                        "value": 1 - m["same_top"]["value"],
                        "low": 1 - m["same_top"]["high"],
                        "high": 1 - m["same_top"]["low"],
                    },
                    percent=True,
                ),
            ]
        )
    rows.sort(key=lambda row: gaps[row[0].strip("`")]["measures"]["kl_mean"]["value"])
    presets = _table(
        ("preset", "KL", "mean ǀΔ log-probǀ", "RMS Δ log-prob", "ratios outside [0.9, 1.1]",
         "other top token"), rows,
    )  # fmt: skip
    known = {(d["measure"], d["wanted"]): d for d in dials}
    told = [
        [
            f"{gap.what} ({gap.where}{'' if gap.read else ', second hand'})",
            gap.said,
            _dialled(known.get(gap.wanted)) if gap.wanted else "–",
        ]
        for gap in PUBLISHED
    ]
    drawn = " and ".join(f"`{name}`" for name in MEASURED)
    return (
        "## Published gaps, and what presets give\n\n"
        "Gaps that others published, between other machines and mostly of other models, beside "
        "the scale of `relative_gaussian` on all linear layers at which `hetero-noise dial` finds "
        "a gap of that size on the 0.5B model. A gap depends on the model, the text and how sure "
        "the model is of it: this orders sizes, and calibrates nothing.\n\n"
        + _table(("compared", "published", "scale of `relative_gaussian` here"), told)
        + f"\n\nAnd what presets do to the 0.5B model: {one['tokens']} tokens of {one['text']} in "
        f"windows of {one['context']}, not attested; brackets 95 %, bootstrap over windows. Of "
        f"{drawn} two draws; formats draw nothing.\n\n" + presets
    )


def _dialled(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return "not measured"
    if "jump" in found:  # told by the dial, which finds no scale then
        jump = found["jump"]
        return (
            f"none: at {_number(jump['scale'])} it jumps from {_number(jump['low'])} to "
            f"{_number(jump['high'])} ({found['tokens']} tokens, {found['draws']} draws)"
        )
    return f"{_span(found['scale'])} ({found['tokens']} tokens, {found['draws']} draws)"

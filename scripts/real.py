"""A finding in Markdown of a folder with what eval, fidelity, sensitivity, dial and dose wrote.

For `scripts.results`: numbers, intervals, floors, attestations, limits and the commands that make
them again, all read from the files, which are told apart by what is in them.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hetero_plugin.attestation import problems
from hetero_plugin.config import PRESETS
from hetero_plugin.evaluation import records, results, stats
from hetero_plugin.evaluation.dose.found import of_accuracy
from hetero_plugin.evaluation.fidelity import sampled
from hetero_plugin.evaluation.report import panels, sources, words
from hetero_plugin.evaluation.specs import evaluation_spec

Data = Mapping[str, Any]
SITES = 15  # of a map
MEASURES = ("kl_mean", "kl_median", "kl_99", "kl_99.9", "same_top", "delta_logp_mean_abs",
            "delta_logp_rms", "perplexity_ratio", "ratio_out")  # fmt: skip


def section(folder: Path, title: str | None = None) -> str:
    """The finding of a folder.

    Args:
        folder: of .json files, and of subfolders with a ``sensitivity.json``. Files of other
            commands are left out.
        title: of it; None: the folder's name.

    Raises:
        ResultError: no such folder, a file that can't be read, or none of these commands'.
        ValueError: the noise of one is not attested.
    """
    found: list[tuple[str, Path, Data]] = []
    if not folder.is_dir():
        raise records.ResultError(f"{folder}: no such folder")
    for path in [*sorted(folder.glob("*.json")), *sorted(folder.glob("*/sensitivity.json"))]:
        data, _ = records.read(path)
        kind = _kind(path, data)
        if kind is not None:
            found.append((kind, path, data))
    if not found:
        raise records.ResultError(f"{folder}: holds no file of eval, fidelity, sensitivity or dial")
    parts = [f"## {title or folder.name}"]
    for wanted, write in WRITERS.items():
        for kind, path, data in found:
            if kind == wanted:
                parts.append("\n\n".join(write(path, data)))
    return "\n\n".join(parts) + "\n"


def _kind(path: Path, data: Any) -> str | None:
    if not isinstance(data, dict):
        return None
    if "header" in data and "levels" in data:
        return "eval"
    if {"level", "points", "sentence", "curve"} <= set(data):
        return "dose"
    kind = panels.kind_of(path)
    return None if kind == "results" else kind


def _eval(path: Path, data: Data) -> Iterator[str]:
    document = results.load(path)
    _require(path, results.problems(document))
    header, first = document["header"], document["levels"][0]
    session = document["sessions"][first["session"]]["attestation"]
    yield f"### Answers: {path.stem}"
    draws = int(header.get("draws") or 1)
    yield _command(
        "eval", header, data=Path(header["task"]).name,
        levels=",".join(f"{row['level']:g}" for row in document["levels"]),
        noise_seeds=draws if draws > 1 else None, n=header["n"], max_tokens=header["max_tokens"],
        samples=header.get("samples"), temperature=header.get("temperature"),
        dtype=header["dtype"], engine="hf" if header.get("backend") == "hf" else None,
        reward=_reward(header), out=path.name,
    )  # fmt: skip
    yield (
        f"n = {header['n']:,} of {header['total']:,} questions of {header['data_source']}, "
        f"{header['decoding']}, at most {header['max_tokens']} tokens an answer; seed "
        f"{header['seed']}, {draws} draws of the error; {session.get('engine')}, "
        f"{header['dtype']}; {_weights(header)}; {session['seen']} of {session['of']} sites "
        f"attested. Judged by: {header['scorer']}."
    )
    yield from _answers(document)
    for rule in first.get("also") or {}:
        yield (
            f"The same answers by the {rule} rule. It was not the one fixed beforehand: what "
            "follows is exploration."
        )
        yield from _answers(_by(document, rule))


def _reward(header: Data) -> str | None:
    """``FILE.py:function`` of a user's scorer: its hash stands after it."""
    word, hashed, _ = str(header["scorer"]).partition(" (sha256")
    return word if hashed else None


def _answers(document: Data) -> Iterator[str]:
    margin = float(document["header"]["margin"])
    rows = []
    for row in document["levels"]:
        of = row["accuracy"]
        rows.append(
            (words.level(row["level"]), f"{_percent(of['value'])} {_range(of, 100, '.1f')}",
             _percent(row.get("truncated_share")), f"{row.get('mean_tokens') or 0:.0f}")
        )  # fmt: skip
    yield _table(("first draw", "right, 95 %", "cut off", "tokens"), rows)
    against = results.within(document, margin)
    adjusted = stats.holm([row["mcnemar_p"] for row in against]) if against else []
    lines = []
    for row, p in zip(against, adjusted, strict=True):
        row["p_adjusted"] = p
        flips = f"{row['only_first']} lost, {row['only_second']} won"
        lines.append(f"- {words.within_sentence('Against clean', row, margin)} {flips}.")
    floor = sources.floors({"A/A": document}, margin)
    lines += [f"- {row['sentence']}." for row in floor.values()]
    lines += [f"- {row['sentence']}." for row in sources.table({"All draws": document})]
    dose = of_accuracy(document)
    if dose is not None:
        lines.append(f"- Dose: {dose['sentence']}.")
    if lines:
        yield "\n".join(lines)


def _by(document: Data, rule: str) -> dict[str, Any]:
    """The same results with the outcomes of another rule that judged them too."""

    def other(row: Data) -> dict[str, Any]:
        return {**row, **row["also"][rule], "also": {}}

    found = {**document, "levels": [other(row) for row in document["levels"]]}
    found["draws"] = [other(row) for row in document.get("draws") or []]
    if document.get("control"):
        found["control"] = other(document["control"])
    return found


def _fidelity(path: Path, data: Data) -> Iterator[str]:
    _require(path, problems(data["attestation"], data["fingerprint"]))
    floor = data["floor"]
    levels = ",".join(f"{row['level']:g}" for row in data["levels"])
    yield f"### Fidelity: {path.stem}"
    yield _command(
        "fidelity", data, text=Path(data["text"]).name, levels=levels,
        tokens=floor["tokens"] + floor["windows"], context=data["context"], dtype=data["dtype"],
        engine=_engine(data), out=path.name,
    )  # fmt: skip
    yield _about(data, floor["tokens"], floor["windows"])
    columns = [(words.level(row["level"]), row) for row in data["levels"]]
    columns.append(("floor (A/A)", floor))
    rows = [(name, *(_value(panel["measures"][name]) for _, panel in columns)) for name in MEASURES]
    yield _table(("nats a token; 95 %", *(label for label, _ in columns)), rows)
    drawn = [
        f"- {label}: {sampled.sentence(row['sampled'])}."
        for label, row in columns
        if row.get("sampled")
    ]
    if drawn:
        yield "Tokens that both draw with the same random numbers from the same text:"
        yield "\n".join(drawn)


def _sensitivity(path: Path, data: Data) -> Iterator[str]:
    _require_sessions(path, data)
    yield f"### Sensitivity: {path.stem}"
    budget = (data["suggestion"] or {}).get("budget") or {}
    asked = budget.get("sites") or (f"{100 * budget['share']:g}%" if budget.get("share") else None)
    yield _command(
        "sensitivity", data, scale=_scale(data), text=Path(data["text"]).name,
        tokens=data["tokens"], context=data["context"], draws=data["draws"], dtype=data["dtype"],
        engine=_engine(data), budget=asked, out=path.parent.name,
    )  # fmt: skip
    yield _about(data, data["predicted_tokens"], data["windows"])
    head = [("all sites", data["all"]), ("floor (A/A)", data["floor"])]
    head += [(f"kind {name}", row) for name, row in data["by_kind"].items()]
    yield _table(("error at", "KL, nats a token; 95 %"), [(n, _value(r["kl"])) for n, r in head])
    rows = [
        (f"{row['rank']} ({row['rank_low']} to {row['rank_high']})", f"`{row['name']}`",
         _value(row["kl"]), _percent(row["share"]) + (", in the floor" * row["within_floor"]))
        for row in data["sites"][:SITES]
    ]  # fmt: skip
    yield f"The first {len(rows)} of {len(data['sites'])} sites, each alone:"
    yield _table(("rank (95 %)", "site", "KL", "share"), rows)
    suggestion = data["suggestion"]
    if suggestion is None:
        yield "No list to keep clean is given: what all sites do together lies within the floor."
    else:
        names = ", ".join(f"`{name}`" for name in suggestion["keep_clean"])
        yield f"Checked by a run: {suggestion['sentence']}. They are {names}."


def _dial(path: Path, data: Data) -> Iterator[str]:
    _require_sessions(path, data)
    want = data["want"]
    losing = want["measure"] == "accuracy-loss"
    asked = f"{100 * want['value']:g}pp" if losing else f"{want['value']:g}"
    text = Path(data["text"]).name
    yield f"### Dial: {path.stem}"
    yield _command(
        "dial", data, **{"data" if losing else "text": text}, want=f"{want['measure']}={asked}",
        tokens=data.get("tokens"), context=data.get("context"),
        draws=None if losing else data["draws"], dtype=data["dtype"], engine=_engine(data),
        out=path.name,
    )  # fmt: skip
    if losing:
        yield f"{_weights(data)}. {data['sentence']}."
        return
    yield _about(data, data["predicted_tokens"], data["windows"])
    yield (
        f"Scale {_value(data['scale'])} gives {want['measure']} = {want['value']:g} in "
        f"{data['draws']} draws of the error; specification `{data['found_fingerprint']}`."
    )
    rows = [
        (name, _value(row), _value(data["in_fresh_draws"][name]), _value(data["floor"][name])
         if name in data["floor"] else "")
        for name, row in data["measures"].items()
    ]  # fmt: skip
    yield _table(("measure", "draws of the search", "fresh draws", "floor (A/A)"), rows)


def _dose(path: Path, data: Data) -> Iterator[str]:
    yield f"### Dose: {path.stem}"
    yield f"{data['sentence']}."


WRITERS: dict[str, Callable[[Path, Data], Iterator[str]]] = {
    "eval": _eval, "dose": _dose, "fidelity": _fidelity, "dial": _dial, "sensitivity": _sensitivity,
}  # fmt: skip


def _require(path: Path, found: Sequence[str]) -> None:
    if found:
        raise ValueError(f"{path}: its noise is not attested: {'; '.join(found)}")


def _require_sessions(path: Path, data: Data) -> None:
    for session in data.get("sessions") or [data]:
        _require(path, problems(session.get("attestation"), data["fingerprint"]))


def _about(data: Data, tokens: int, windows: int) -> str:
    record = ((data.get("sessions") or [data])[0])["attestation"]
    return (
        f"{tokens:,} tokens of {Path(data['text']).name} in {windows} windows; seed "
        f"{data['seed']}, from step {data['step']}, {data.get('draws', 1)} draws of the error; "
        f"{data['engine']}, {data['dtype']}; {_weights(data)}; {record['seen']} of {record['of']} "
        "sites attested. Intervals: bootstrap over windows and, of several, draws."
    )


def _weights(data: Data) -> str:
    return f"weights {str(data.get('model_sha256'))[:12]}"


def _engine(data: Data) -> str | None:
    return "vllm" if str(data["engine"]).startswith("vllm") else None


def _command(name: str, about: Data, /, **options: Any) -> str:
    """The command that makes such a file again, without folders of the machine."""
    given = ["hetero-noise", name, "--model", Path(about["model"]).name, *_spec(about)]
    for option, value in options.items():
        if value is not None:
            given += [f"--{option.replace('_', '-')}", str(value)]
    if about.get("seed"):
        given += ["--seed", str(about["seed"])]
    return f"```\n{shlex.join(given)}\n```"


def _scale(data: Data) -> float | None:
    """That of all rules, where the command names a preset: each rule of a map keeps its own."""
    scales = {rule["scale"] for rule in data["spec"]["rules"]}
    return scales.pop() if len(scales) == 1 and _spec(data)[0] == "--preset" else None


def _spec(data: Data) -> list[str]:
    """``--preset`` where the specification is one's but for its scale, else ``--config``."""
    wanted = {**data["spec"], "resample": None}
    scales = {rule["scale"] for rule in wanted["rules"]}
    for name in PRESETS:
        config = evaluation_spec({"preset": name, "seed": data["spec"]["seed"]}, None, None)
        for scale in (None, *scales):
            like = config if scale is None else evaluation_spec(config, None, scale)
            if {**json.loads(like.canonical), "resample": None} == wanted:
                return ["--preset", name]
    return ["--config", json.dumps(data["spec"])]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _range(row: Data, factor: float, digits: str) -> str:
    ends = ["–" if row[end] is None else f"{factor * row[end]:{digits}}" for end in ("low", "high")]
    return f"[{', '.join(ends)}]"


def _value(row: Data) -> str:
    if row["low"] is None and row["high"] is None:
        return f"{row['value']:.4g}"
    return f"{row['value']:.4g} {_range(row, 1, '.3g')}"

"""What the evaluation commands show on the terminal: progress, and tables of results."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

EVERY = 30.0
"""Seconds between lines of progress where there is no terminal to draw a bar on."""


class Bars:
    """One progress bar a task, on stderr; where that is no terminal, a line now and then."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: dict[str, float] = {}
        self._said = 0.0
        self.console = Console(stderr=True)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.tasks: dict[str, Any] = {}

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.progress.stop()

    def update(self, what: str, done: int, of: int) -> None:
        """Moves the bar of a task, and makes it if it is new."""
        if what not in self.tasks:
            self.tasks[what] = self.progress.add_task(what, total=of)
            self._began[what] = self._said = self._clock()
            if not self.console.is_terminal:
                self.console.print(f"{what} ({of})" if of > 1 else what, highlight=False)
        now = self._clock()
        if not self.console.is_terminal and 0 < done < of and now - self._said >= EVERY:
            self._said = now
            left = (now - self._began[what]) * (of - done) / done
            line = f"{what}: {done} of {of}, about {left / 60:.1f} min left"
            self.console.print(line, highlight=False)
        self.progress.update(self.tasks[what], completed=done)


def stdout() -> Console:
    """Stdout; wide enough for site names where it is a file."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def print_attestation(record: Mapping[str, Any], *, every_site: bool = True) -> None:
    """The checks and the sites of an attestation."""
    console = stdout()
    checks = Table(title=f"{record['engine']}: checks", title_justify="left", expand=False)
    for heading in ("check", "passed", "detail"):
        checks.add_column(heading)
    for check in record["checks"]:
        checks.add_row(check["name"], "yes" if check["passed"] else "NO", check["detail"])
    console.print(checks)
    if every_site:
        sites = Table(
            title=f"sites, proof: {record['proof']}, at scale {record['knock_in_scale']:g}",
            title_justify="left",
        )
        sites.add_column("site", overflow="fold")
        sites.add_column("kind")
        sites.add_column("seen")
        for heading in ("largest |Δ log-prob|", "RMS"):
            sites.add_column(heading, justify="right")
        for site in [*record["sites"], *({"kind": "AQN", **row} for row in record["aqn"])]:
            sites.add_row(
                site["name"],
                site["kind"],
                "yes" if site["seen"] else "NO",
                *("–" if site.get(k) is None else f"{site[k]:.3g}" for k in ("max_abs", "rms")),
            )
        console.print(sites)
    for kind, row in record["realised"].items():
        size = row["rms_relative"]
        console.print(
            f"realised error of {kind}: {'nothing' if size is None else f'{size:.4g}'}, asked "
            f"{row['asked']:g}, {100 * row['changed']:.1f} % of elements changed",
            highlight=False,
        )
    kinds = ", ".join(f"{k} {v['seen']} of {v['of']}" for k, v in record["by_kind"].items())
    processes = len(record.get("processes", []))
    console.print(
        f"{record['seen']} of {record['of']} sites seen ({kinds}) in {processes} process(es), "
        f"{record['seconds']:.1f} s\nspecification {record.get('fingerprint', 'unknown')}\n"
        f"signature {record['signature']}",
        highlight=False,
    )


def print_levels(document: Mapping[str, Any], margin: float, *, legacy: bool = False) -> None:
    """Accuracy by level, and each noisy level against the clean one."""
    from hetero_plugin.evaluation import power, results, stats
    from hetero_plugin.evaluation.report import sources
    from hetero_plugin.evaluation.report.words import within_sentence

    rows = results.within(document, margin)
    for row, p in zip(rows, stats.holm([row["mcnemar_p"] for row in rows]), strict=True):
        row["p_adjusted"] = p
    console = stdout()
    console.print(_levels(document, {row["level"]: row for row in rows}))
    for row in rows:
        console.print(within_sentence("the model", row, margin), highlight=False)
        if legacy:
            old, psi = row["legacy"], max(row["discordance"], 0.03)
            rates = [power.legacy_rates(d, psi, old["n"])["robust"] for d in (0.0, -0.03)]
            console.print(f"  {_old_rule(old, rates, 'questions')}", highlight=False)
    console.print(
        f"equivalence: two one-sided tests, margin ±{100 * margin:g} points; McNemar's p adjusted "
        f"by Holm over {len(rows)} level(s)",
        highlight=False,
    )
    name = str(document["header"].get("model") or "the model")
    lines = [row["sentence"] for row in sources.floors({name: document}, margin).values()]
    lines += [row["sentence"] for row in sources.table({name: document})]
    for line in lines:
        console.print(line, highlight=False)
    found = results.problems(document)
    console.print(
        f"UNATTESTED: {'; '.join(found)}" if found else "every level attested", highlight=False
    )


def _levels(document: Mapping[str, Any], pairs: Mapping[float, Mapping[str, Any]]) -> Table:
    """A row a level; ``pairs``: each noisy level against the clean one."""
    from hetero_plugin.evaluation.report.words import interval, p_value, percent, points, verdict

    table = Table(title=f"n = {document['header']['n']:,}", title_justify="left")
    headings = ("error", "right", "95 %", "cut off", "tokens", "against none", "lost, won")
    for heading in (*headings, "McNemar", "verdict"):
        table.add_column(heading, justify="left" if heading == "error" else "right")
    for row in document["levels"]:
        accuracy, pair = row["accuracy"], pairs.get(row["level"])
        also = "".join(
            f"\n{rule}\n{percent(other['accuracy']['value'])}"
            for rule, other in (row.get("also") or {}).items()
        )
        cut, length = row.get("truncated_share"), row.get("mean_tokens")
        table.add_row(
            percent(row["level"], 1),
            percent(accuracy["value"]) + also,
            f"{100 * accuracy['low']:.1f} to {100 * accuracy['high']:.1f}",
            "–" if cut is None else percent(cut),
            "–" if length is None else f"{length:.0f}",
            f"{points(pair['difference'])} {interval(pair)}" if pair else "",
            f"{pair['only_first']}, {pair['only_second']}" if pair else "",
            p_value(pair["p_adjusted"]) if pair else "",
            verdict(pair) if pair else "",
        )
    return table


def _old_rule(old: Mapping[str, Any], rates: Sequence[float], what: str) -> str:
    """Its word, and how often it calls robust what is equal, or loses 3 points (``rates``)."""
    from hetero_plugin.evaluation.report.words import percent, points

    return (
        f"the old rule on {old['n']} {what}: {points(old['difference'])} points, {old['word']}; it "
        f"calls robust {percent(rates[0])} of equal models and {percent(rates[1])} of those that "
        "lose 3 points"
    )


def print_outlook(found: Mapping[str, Any], *, legacy: bool = False) -> None:
    """What a number of questions can show (``evaluation.power.outlook``)."""
    from hetero_plugin.evaluation.power import LEGACY_QUESTIONS
    from hetero_plugin.evaluation.report.words import percent

    margin = 100 * found["margin"]
    table = Table(
        title=f"{found['n']:,} questions, {percent(found['discordance'])} of answers flipped",
        title_justify="left",
    )
    headings = ["true loss", "DEGRADED", f"EQUIVALENT ±{margin:g}", "questions to decide"]
    if legacy:
        headings += [f"old rule, {LEGACY_QUESTIONS}: robust", "moderately", "not"]
    for heading in headings:
        table.add_column(heading, justify="right")
    for row in found["losses"]:
        needed = row["to_decide"]
        cells = [f"{100 * row['loss']:g} points", percent(row["degraded"])]
        cells += [percent(row["equivalent"]), "never" if needed is None else f"{needed:,}"]
        if legacy:
            cells += [percent(rate) for rate in row["legacy"].values()]
        table.add_row(*cells)
    console = stdout()
    console.print(table)
    seen, seeds = found["detectable"], found["seeds"]
    least = "no difference is" if seen is None else f"a difference of {100 * seen:.1f} points is"
    lines = [
        f"{least} found with 80 % probability (McNemar, 5 %); two equal systems are called "
        f"EQUIVALENT within ±{margin:g} points with 80 % from {found['for_equivalence']:,} "
        "questions on; one comparison, unadjusted"
    ]
    if seeds is not None:
        lines.append(
            f"{seeds['seeds']} training seeds of each method, {100 * seeds['seed_sd']:g} points "
            f"standard deviation between them: {100 * seeds['detectable']:.1f} points between the "
            "methods are found with 80 % probability (t test, 5 %)"
        )
    console.print("\n".join(lines), highlight=False)


def print_pair(found: Mapping[str, Any], *, legacy: bool = False) -> None:
    """Two runs, paired (``evaluation.harness.compare``)."""
    from hetero_plugin.evaluation.report.words import percent

    row = found["comparison"]
    table = Table(title=f"{row['n']:,} items, by {found['metric']}", title_justify="left")
    table.add_column("run", overflow="fold")
    for heading in ("harness", "right", "95 % interval", "cut off", "characters"):
        table.add_column(heading, justify="right")
    for run in found["runs"]:
        accuracy, cut, length = run["accuracy"], run["truncated"], run["mean_characters"]
        table.add_row(
            run["name"],
            run["kind"],
            percent(accuracy["value"]),
            f"{percent(accuracy['low'])} to {percent(accuracy['high'])}",
            "–" if cut is None else percent(cut),
            "–" if length is None else f"{length:.0f}",
        )
    console = stdout()
    console.print(table)
    lines = [
        f"{row['only_first']} became wrong, {row['only_second']} became right; "
        + (f"{percent(row['changed_texts'])} of texts changed" if "changed_texts" in row else ""),
        found["sentence"],
        *(
            f"the runs differ in {d['field']}: {d['values'][0]} and {d['values'][1]}"
            for d in found["differences"]
        ),
        *(f"these files don't tell {what}" for what in found["unknown"]),
    ]
    if any(found["left_out"]):
        one, two = found["left_out"]
        lines.append(f"left out, for the other lacks them: {one} items and {two}")
    for text in lines:
        console.print(text.rstrip("; "), highlight=False)
    print_outlook(found["power"])
    if legacy:
        old = found["legacy"]
        rates = [old["equal_called_robust"], old["loser_called_robust"]]
        console.print(_old_rule(old, rates, "items"), highlight=False)


def print_fidelity(found: Mapping[str, Any]) -> None:
    """The fidelity panels of a text, level by level, and their floor."""
    from hetero_plugin.evaluation.fidelity import sampled

    panels = [(f"{100 * row['level']:g} % error", row) for row in found["levels"]]
    panels.append(("floor: clean, one window at a time", found["floor"]))
    floor = found["floor"]
    table = Table(
        title=f"{floor['tokens']:,} tokens in {floor['windows']} windows, {found['engine']}, "
        f"{found['dtype']}",
        title_justify="left",
    )
    table.add_column("measure")
    for label, _ in panels:
        table.add_column(label, justify="right")
    for name in floor["measures"]:
        cells = []
        for _, panel in panels:
            row = panel["measures"][name]
            span = "" if row["low"] is None else f" [{row['low']:.3g}, {row['high']:.3g}]"
            cells.append(f"{row['value']:.4g}{span}")
        table.add_row(name, *cells)
    console = stdout()
    console.print(table)
    for label, panel in panels:
        if panel.get("sampled"):
            console.print(f"{label}: {sampled.sentence(panel['sampled'])}", highlight=False)
    record = found["attestation"]
    console.print(
        f"nats; brackets: 95 % by bootstrap over windows; {record['seen']} of {record['of']} sites "
        "attested",
        highlight=False,
    )

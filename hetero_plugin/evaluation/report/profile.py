"""A measured profile as one page: its tables, how they fit what was held out, and the figure."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError
from hetero_plugin.errors.profile import Profile
from hetero_plugin.evaluation import files
from hetero_plugin.evaluation.report import rendering
from hetero_plugin.profile.fit.figure import draw

__all__ = ["render", "write"]

_SIDES = (
    ("engine", "engine"),
    ("variant", "as"),
    ("rows", "rows"),
    ("columns", "columns of an operator at most"),
    ("repeats", "repetitions"),
)


def render(profile: Profile, drawing: str = "") -> str:
    """The page, self-contained HTML.

    Args:
        profile: with the report of `fit`.
        drawing: its figure, as ``<svg>``; empty: none.

    Raises:
        ConfigError: it has no report.
        ImportError: jinja2 is missing.
    """
    rows = profile.report.get("tables")
    if not rows:
        raise ConfigError(
            f"{profile.name}: has no report of `profile fit`, so there is no page to make of it"
        )
    page = rendering.environment().get_template("profile.html.j2")
    text: str = page.render(
        profile=profile,
        facts=_facts(profile),
        rows=rows,
        held=[line for row in rows for line in _held(row)],
        sentences=profile.report.get("sentences", []),
        drawing=drawing,
    )
    return text


def write(profile: Profile, path: Path) -> None:
    """Writes the page, with the figure in it.

    Raises:
        ConfigError: there is no report, or the file can't be written.
        ImportError: jinja2 or matplotlib is missing.
    """
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder) / "figure.svg"
        drawn = draw(profile, picture)
        text = picture.read_text(encoding="utf-8") if drawn else ""
    page = render(profile, text[text.index("<svg") :] if text else "")
    try:
        files.write_text(path, page)
    except OSError as error:
        raise ConfigError(f"{path}: can't be written: {files.reason(error)}") from None


def _facts(profile: Profile) -> list[tuple[str, str, str]]:
    """What is known of the recordings of A and B: name, A's, B's."""
    sides = [profile.made_from.get(side, {}) for side in ("a", "b")]
    found = [(said, *(str(side.get(key, "–")) for side in sides)) for key, said in _SIDES]
    machines = [side.get("machine", {}) for side in sides]
    for key in sorted({key for machine in machines for key in machine}):
        found.append((key, *(str(machine.get(key, "–")) for machine in machines)))
    for key in ("model", "text"):
        found.append((key, *(str(side.get(key, {}).get("name", "–")) for side in sides)))
    return [(name, one, two) for name, one, two in found]


def _held(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Of each held-out part of a table what is shown."""
    made = []
    for part, found in row["held_out"].items():
        if found is None:
            continue
        over = found["overall"]
        made.append(
            {
                "of": f"{row['kind']} {row['dtype']} K {row['k']}, {part}",
                "changed": found["changed"],
                "within": found["within"]["profile"],
                "gaussian": found["within"]["gaussian"],
                "measured": over["measured"],
                "profile": over["profile"],
                "score": found["score"],
                "better": found["better"],
            }
        )
    return made

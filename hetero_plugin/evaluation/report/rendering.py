"""The templates of the reports' pages, with the filters of their numbers."""

from __future__ import annotations

from typing import Any

from hetero_plugin.evaluation.report import words


def environment() -> Any:
    """jinja2 with this report's templates and the filters of its numbers.

    Raises:
        ImportError: it is not installed; names the pip command.
    """
    try:
        import jinja2
    except ImportError as exc:  # pragma: no cover - depends on the installation
        raise ImportError(
            "the report's page needs jinja2; install it with: pip install 'hetero-plugin[eval]'"
        ) from exc
    made = jinja2.Environment(
        loader=jinja2.PackageLoader("hetero_plugin.evaluation.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        percent=words.percent,
        points=words.points,
        interval=words.interval,
        pvalue=words.p_value,
        level=words.level,
    )
    return made

"""matplotlib, which only figures need."""

from __future__ import annotations

from typing import Any

__all__ = ["pyplot"]


def pyplot(need: str) -> Any:
    """matplotlib's pyplot, drawing into files only.

    Args:
        need: what is to be drawn, with its verb, for the error: "the dial's figure needs".

    Raises:
        ImportError: matplotlib is missing; the text says how to install it.
    """
    try:
        import matplotlib
    except ImportError as exc:  # pragma: no cover - depends on the installation
        raise ImportError(
            f"{need} matplotlib; install it with: pip install 'hetero-plugin[eval]'"
        ) from exc
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot

"""``python -m hetero_plugin.evaluation.scoring.child``: judges by training's own function.

Standard input: JSON, a list of [data source, answer, reference, extra_info]. The last line of
standard output: JSON, ``scores`` and ``by``; or ``unknown``; or ``error`` and the row ``at``
which it came. What scorers print goes to standard error.
"""

from __future__ import annotations

import contextlib
import json
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def main() -> None:
    """Judges what standard input holds."""
    rows = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        answer = _judge(rows)
    print(json.dumps(answer, default=float))


def _judge(rows: list[list[Any]]) -> dict[str, Any]:
    from hetero_plugin.verl.reward import compute_score

    scores: list[Any] = []
    for index, (source, text, reference, extra) in enumerate(rows):
        try:
            scores.append(compute_score(source, text, reference, extra))
        except NotImplementedError as error:
            return {"unknown": str(error)}
        except Exception as error:  # whatever a scorer raises
            return {"error": f"the scorer raised {type(error).__name__}: {error}", "at": index}
    try:
        by = f"verl {version('verl')}"
    except PackageNotFoundError:
        by = "hetero_noise"
    return {"scores": scores, "by": by}


if __name__ == "__main__":
    main()

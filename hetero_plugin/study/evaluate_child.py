"""`python -m hetero_plugin.study.evaluate_child JOB`: one evaluation, as a process of its own.

JOB is JSON: the arguments of `hetero_plugin.evaluation.answers.run.evaluate`. An engine that is
ended with its process leaves no memory and no worker behind for the next one.
"""

from __future__ import annotations

import json
import sys

from hetero_plugin.evaluation.answers.run import evaluate
from hetero_plugin.study import child


def main(argument: str) -> None:
    """Evaluate, telling how far it is."""
    job = json.loads(argument)
    noisy = len(job["levels"])
    finished: list[str] = []

    def progress(what: str, done: int, of: int) -> None:
        share = done / max(of, 1)
        if what.startswith("answering"):
            if what not in finished:
                finished.append(what)
            whole = 0.5 + 0.45 * (len(finished) - 1 + share) / noisy
        else:
            whole = 0.4 + 0.1 * share if what == "attesting" else 0.0
        if "realised" in what:
            whole = 0.96
        child.tell(whole, what if of <= 1 else f"{what}, {done} of {of}")

    evaluate(**job, progress=progress)


if __name__ == "__main__":
    main(sys.argv[1])

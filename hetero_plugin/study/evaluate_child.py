"""`python -m hetero_plugin.study.evaluate_child JOB`: one evaluation, as a process of its own.

JOB is JSON: the arguments of `hetero_plugin.evaluation.answers.run.evaluate_specs`. An engine that
is ended with its process leaves no memory and no worker behind for the next one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from hetero_plugin.evaluation.answers.run import evaluate_specs
from hetero_plugin.evaluation.answers.settings import Settings
from hetero_plugin.study import child


def main(argument: str) -> None:
    """Evaluate, telling how far it is."""
    job = json.loads(argument)
    settings = Settings(**job.pop("settings"))
    outs = {name: Path(out) for name, out in job.pop("outs").items()}
    noisy = (len(list(settings.passes())) - 1) * len(outs) + 1
    finished: list[str] = []

    def progress(what: str, done: int, of: int) -> None:
        share = done / max(of, 1)
        if "answering" in what:
            if what not in finished:
                finished.append(what)
            whole = 0.5 + 0.45 * (len(finished) - 1 + share) / noisy
        else:
            whole = 0.4 + 0.1 * share if what == "attesting" else 0.0
        if "realised" in what:
            whole = 0.96
        child.tell(min(whole, 0.99), what if of <= 1 else f"{what}, {done} of {of}")

    evaluate_specs(**job, outs=outs, settings=settings, progress=progress)


if __name__ == "__main__":
    main(sys.argv[1])

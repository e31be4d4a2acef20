"""What a run shows: every stage, what it found, time so far and left; in a log as plain lines."""

from __future__ import annotations

import io

from rich.console import Console

from hetero_plugin.demo import display, pipeline, settings
from hetero_plugin.evaluation import stats


def _record(seconds: float, **result: object) -> dict[str, object]:
    return {"seconds": seconds, "result": result}


def _watch(console: Console) -> None:
    order = {stage.name: stage for stage in pipeline.plan(settings.short())}
    with display.Display(console) as shown:
        shown.planned(tuple(order.values()))
        sizes = {"dev": 500, "test": 1000, "train": 4096}
        shown.ended(order["prepare"], _record(3.0, questions=sizes), reused=True)
        shown.began(order["warm-up"])
        shown.progressed(order["warm-up"], 0.5, "step 150")
        warmed = _record(61.0, accuracy=0.52, n_dev=500, steps=170)
        shown.ended(order["warm-up"], warmed, reused=False)
        row = stats.accuracy([1] * 450 + [0] * 550).to_dict()
        shown.ended(
            order["evaluate:noise"], _record(50.0, accuracy={"0.05": row}, n=1000), reused=False
        )
        shown.began(order["train:clean"])
        assert shown.current is order["train:clean"]


def test_plain_lines_without_a_terminal() -> None:
    out = io.StringIO()
    _watch(Console(file=out, force_terminal=False, width=60))
    lines = out.getvalue().splitlines()
    assert lines[0] == (
        "[ 1/12] prepare: already finished; 4096 train, 500 dev, 1000 test questions"
    )
    assert lines[1].startswith("[ 2/12] warm-up ... (0:00 so far, about ")
    assert lines[2] == "[ 2/12] warm-up: took 1:01; 52.0% of 500 after 170 steps"
    assert lines[3].endswith("took 0:50; 45.0% at 5% (n=1000)")
    assert len(lines) == 5 and "\x1b" not in out.getvalue()


def test_a_terminal_shows_what_is_to_come() -> None:
    out = io.StringIO()
    _watch(Console(file=out, force_terminal=True, width=100, height=40))
    text = out.getvalue()
    assert "report" in text and "left" in text and "52.0% of 500" in text


def test_durations() -> None:
    assert [display.duration(s) for s in (0, 59.6, 187, -3)] == ["0:00", "1:00", "3:07", "0:00"]

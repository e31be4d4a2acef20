"""Who judges answers, and how long they may get: by data source, or as the user says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hetero_plugin.config.problems import ConfigError
from hetero_plugin.evaluation import tasks
from hetero_plugin.evaluation.scoring.judge import judge_of, load_reward
from hetero_plugin.evaluation.scoring.sources import answer_tokens

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"
needs_gsm8k = pytest.mark.skipif(
    not (GSM8K / "test.jsonl").is_file(),
    reason=f"real GSM8K is not at {GSM8K.parent.parent.name}/data/gsm8k beside the repository",
)
MATH = "DigitalLearningGmbH/MATH-lighteval"


def question(source: str = "openai/gsm8k", reference: str = "72") -> tasks.Question:
    return tasks.Question(0, (), reference, source, extra={"index": 7})


@pytest.mark.parametrize(
    ("source", "given", "tokens"),
    [
        ("openai/gsm8k", None, 1024),
        ("openai/gsm8k", 512, 512),
        (MATH, None, 2048),
        ("hetero_noise/addition", None, 16),
        ("nobody/knows", 300, 300),
    ],
)
def test_the_budget_follows_the_source(source: str, given: int | None, tokens: int) -> None:
    assert answer_tokens(source, given) == tokens


def test_an_unknown_budget_is_asked_for() -> None:
    for source in ("nobody/knows", "aime2024", "gsm8k"):
        with pytest.raises(ConfigError, match=r"give --max-tokens.*--reward FILE\.py:function"):
            answer_tokens(source, None)
    with pytest.raises(ConfigError, match="at least 1"):
        answer_tokens("openai/gsm8k", 0)


@needs_gsm8k
def test_real_gsm8k_scores_references_right_and_wrong_ones_wrong() -> None:
    """8,792 references of both splits, right, off by one, and unsaid, in one process of verl's."""
    splits = [tasks.load_task(GSM8K / f"{name}.jsonl") for name in ("test", "train")]
    assert [(len(t), t.total, t.data_source) for t in splits] == [
        (1319, 1319, "openai/gsm8k"),
        (7473, 7473, "openai/gsm8k"),
    ]
    questions = [*splits[0].questions, *splits[1].questions]
    texts = [q.solution or "" for q in questions]
    texts += [f"... #### {int(q.reference) + 1}" for q in questions]
    texts += ["I don't know." for _ in questions]
    texts += [f"The answer is {q.reference}." for q in questions]
    judged = judge_of(questions).judge(questions * 4, texts)
    n = len(questions)
    assert judged.right == [1] * n + [0] * 3 * n
    assert judged.also["flexible"] == [1] * n + [0] * 2 * n + [1] * n
    assert judged.by.startswith(("verl ", "hetero_noise"))


@pytest.mark.slow
def test_math_is_judged_by_its_box() -> None:
    pytest.importorskip("verl")
    q = question(MATH, r"\frac{1}{2}")
    judged = judge_of([q]).judge([q] * 3, [r"so \boxed{\frac12}", r"\boxed{2}", r"\frac{1}{2}"])
    assert judged.right == [1, 0, 0] and judged.by.startswith("verl")


def test_a_source_that_no_scorer_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"nobody/knows.*--reward FILE\.py:function"):
        judge_of([question("nobody/knows")])
    with pytest.raises(ConfigError, match="running the answers as programs"):
        judge_of([question("apps")])
    with pytest.raises(tasks.DataError, match="question 0: its reference 'seventy-two'"):
        judge_of([question(reference="seventy-two")])


REWARD = """
def score(data_source, solution_str, ground_truth, extra_info):
    assert extra_info["index"] == 7 and data_source == "nobody/knows"
    return {"score": 0.5, "acc": True} if solution_str == ground_truth else -1.0

def half(solution_str, **_):
    return 0.5

def words(**_):
    return "right"

def broken(**_):
    raise KeyError("no such thing")
"""


def test_a_users_function_judges_as_verl_calls_it(tmp_path: Path) -> None:
    (tmp_path / "reward.py").write_text(REWARD)
    q = question("nobody/knows")
    judge = judge_of([q], f"{tmp_path}/reward.py:score")
    assert judge.scorer.startswith("reward.py:score (sha256 ")
    judged = judge.judge([q, q], ["72", "71"])
    assert (judged.right, judged.scores, judged.by) == ([1, 0], [0.5, -1.0], "user")
    half = judge_of([q], f"{tmp_path}/reward.py:half").judge([q], ["72"])
    assert (half.right, half.scores) == ([0], [0.5]), "part of a score is not right"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words", "question 0: the scorer gave 'right'"),
        ("broken", "question 0: the scorer raised KeyError"),
        ("missing", "has no function 'missing'"),
        ("", "give FILE.py:function"),
    ],
)
def test_a_users_bad_function_is_named(tmp_path: Path, name: str, message: str) -> None:
    (tmp_path / "reward.py").write_text(REWARD)
    with pytest.raises(ConfigError, match=message):
        judge_of([question()], f"{tmp_path}/reward.py:{name}")


def test_a_users_bad_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        load_reward(f"{tmp_path}/none.py:score")
    (tmp_path / "bad.py").write_text("def score(:")
    with pytest.raises(ConfigError, match="SyntaxError"):
        load_reward(f"{tmp_path}/bad.py:score")


@pytest.mark.slow
def test_scoring_does_not_install_the_hooks_for_verl() -> None:
    """An evaluation's engine must be vLLM as it is, without what verl's processes need."""
    program = (
        "import sys\n"
        "from hetero_plugin.evaluation.scoring.judge import judge_of\n"
        "from hetero_plugin.evaluation.tasks import Question\n"
        "q = Question(0, (), '12', 'openai/gsm8k')\n"
        "assert judge_of([q]).judge([q, q], ['#### 12', '#### 13']).right == [1, 0]\n"
        "assert not [m for m in sys.modules if m.startswith(('verl', 'hetero_plugin.verl'))]\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

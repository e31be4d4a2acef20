"""640 generated calls of the command: exit status 0, 1 or 2, and never a traceback."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hetero_plugin.cli import _run
from tests.fuzz.examples import fixed

MODEL = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "vocab_size": 272,
}
NUMBER = st.sampled_from(
    ["0", "1", "-1", "0.05", "5e-2", "nan", "inf", "1e400", "", "x", "--", "7"]
)
SPEC = st.sampled_from(
    [
        '{"preset": "all"}',
        '{"scale": 0.1, "targets": ["*.down_proj"]}',
        '{"scale": 0.1, "targets": ["down_proj"]}',
        '{"rules": [], "aqn": {"total_steps": 20}}',
        '{"scal": 1}',
        "{",
        "all",
        "nowhere.yaml",
        "\x00.json",
        "{[" * 40,
        "",
    ]
)
FOLDER = st.sampled_from(["MODEL", "MODEL/config.json", "nowhere", "/", "", "\x00"])
FOREIGN = ("Traceback", "pydantic", "validation error", 'File "')


def options(**known: st.SearchStrategy[str]) -> st.SearchStrategy[list[str]]:
    """Some of these options, in any order, now and then one that there is not."""
    one = st.one_of(
        *(
            st.tuples(st.just("--" + name.replace("_", "-")), value).map(list)
            for name, value in known.items()
        ),
        st.sampled_from([["--json"], ["--nonsense"], ["extra"], ["--help"]]),
    )
    return st.lists(one, max_size=4).map(lambda parts: [word for part in parts for word in part])


CALLS: dict[str, st.SearchStrategy[list[str]]] = {
    "plan": options(
        model=FOLDER,
        preset=st.sampled_from(["all", "qerl", ""]),
        config=SPEC,
        scale=NUMBER,
        dtype=st.sampled_from(["float16", "float64", ""]),
    ),
    "schedule": options(
        schedule=st.sampled_from(["global", "epoch", "constant", "linear", "cosine", "x"]),
        sigma_start=NUMBER,
        sigma_end=NUMBER,
        stages=NUMBER,
        total_steps=st.sampled_from(["0", "12", "116", "x", "99999999999"]),
        epoch_ranges=st.sampled_from(["0.05:0.01", "0.05", ":", "", "a:b", "1:0", "0.1:0.1,0.2"]),
        stages_per_epoch=NUMBER,
        steps_per_epoch=NUMBER,
        epochs=NUMBER,
        config=SPEC,
    ),
    "random": st.just(["--bytes", "64", "--list"]).flatmap(
        lambda fixed: options(order=st.sampled_from(["rows", "x", ""]), seed=NUMBER).map(
            lambda rest: fixed + rest
        )
    ),
    "report": st.lists(
        st.sampled_from(["nowhere", "RUN", "--allow-unattested", "--x"]), max_size=3
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    (path / "config.json").write_text(json.dumps(MODEL))
    (path / "run" / "eval").mkdir(parents=True)
    return path


def call(name: str, args: list[str]) -> tuple[int, str, str]:
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    code: Any = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            _run(name, args)
        except SystemExit as left:
            code = left.code or 0
    out.flush()
    return int(code), out.buffer.getvalue().decode(errors="replace"), err.getvalue()


@fixed(160)
@given(data=st.data())
@pytest.mark.parametrize("name", CALLS)
def test_calls(folder: Path, name: str, data: st.DataObject, monkeypatch: Any) -> None:
    monkeypatch.chdir(folder)
    places = {"MODEL": str(folder), "RUN": str(folder / "run")}
    args = [
        word.replace("MODEL", places["MODEL"]).replace("RUN", places["RUN"])
        for word in data.draw(CALLS[name])
    ]
    code, out, err = call(name, args)
    assert code in (0, 1, 2), (args, err)
    assert (code == 0) == (not err) or "--help" in args or "warning" in err.lower(), (args, err)
    assert not any(word in out + err for word in FOREIGN), (args, err)
    assert code == 0 or err.strip(), args

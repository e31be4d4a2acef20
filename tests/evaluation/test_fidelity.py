"""The fidelity panel: against plain formulas, on a miniature, and its command. About 15 s."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from hetero_plugin.cli import _run
from hetero_plugin.config import NoiseConfig
from hetero_plugin.evaluation.fidelity.panel import MEASURES, summarise, token_rows
from hetero_plugin.evaluation.fidelity.run import HFReader, measure
from hetero_plugin.evaluation.report import panels
from hetero_plugin.hf import state_of, wrap
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_token_by_the_plain_formula(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    clean = torch.randn(70, 11, generator=generator).to(dtype)
    noisy = (clean.float() + 0.2 * torch.randn(70, 11, generator=generator)).to(dtype)
    targets = torch.randint(0, 11, (70,), generator=generator)
    found = token_rows(clean, noisy, targets)
    for t in (0, 33, 69):
        a, b = (np.exp(x[t].double().numpy()) for x in (clean, noisy))
        p, q = a / a.sum(), b / b.sum()
        y = int(targets[t])
        assert found["kl"][t] == pytest.approx(float((p * np.log(p / q)).sum()), rel=1e-9)
        assert found["delta_p"][t] == pytest.approx(q[y] - p[y], abs=1e-12)
        assert found["delta_logp"][t] == pytest.approx(math.log(q[y] / p[y]), abs=1e-12)
        assert found["same_top"][t] == float(p.argmax() == q.argmax())


def test_equal_distributions_differ_by_nothing() -> None:
    logits = torch.randn(40, 9, generator=torch.Generator().manual_seed(1))
    logits[:, 3] = -torch.inf
    rows = token_rows(logits, logits, torch.zeros(40, dtype=torch.int64))
    found = summarise([rows] * 8, draws=20)["measures"]
    assert found["kl_mean"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert found["same_top"]["value"] == found["perplexity_ratio"]["value"] == 1.0
    assert found["ratio_out"]["value"] == 0.0


def test_the_summary() -> None:
    delta = np.log(np.array([0.85, 0.95, 1.05, 1.2]))
    rows = {
        "kl": np.array([0.0, 1.0, 2.0, 3.0]),
        "delta_p": np.array([-0.1, 0.0, 0.1, 0.2]),
        "delta_logp": delta,
        "same_top": np.array([1.0, 1.0, 0.0, 1.0]),
    }
    found = summarise([rows])
    values = {name: row["value"] for name, row in found["measures"].items()}
    assert set(values) == set(MEASURES) and found["tokens"] == 4
    assert (values["kl_mean"], values["kl_median"], values["same_top"]) == (1.5, 1.5, 0.75)
    assert values["ratio_out"] == 0.5
    assert values["delta_logp_rms"] == pytest.approx(float(np.sqrt((delta**2).mean())))
    assert values["perplexity_ratio"] == pytest.approx(float(np.exp(-delta.mean())))
    assert found["measures"]["kl_mean"]["low"] is None, "one window bears no interval"
    with pytest.raises(ValueError, match="no window"):
        summarise([])
    with pytest.raises(ValueError, match="no finite numbers"):
        summarise([{**rows, "kl": np.array([0.0, np.nan, 0.0, 0.0])}])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_more_noise_is_further_away(dtype: torch.dtype) -> None:
    model = wrap(
        build_model(MiniatureShape(layers=2), 0).to(dtype).eval(),
        NoiseConfig(preset="linear", scale=0.3),
    )
    generator = torch.Generator().manual_seed(2)
    windows = [torch.randint(3, 14, (24,), generator=generator) for _ in range(10)]
    windows.append(torch.randint(3, 14, (7,), generator=generator))
    found = measure(HFReader(model), windows, [0.05, 0.2], step=3)
    kl = [row["measures"]["kl_mean"] for row in found["levels"]]
    floor = found["floor"]["measures"]["kl_mean"]["value"]
    assert floor < 1e-3 < kl[0]["value"] or floor < 0.1 * kl[0]["value"]
    assert kl[0]["high"] < kl[1]["low"] and kl[0]["low"] <= kl[0]["value"] <= kl[0]["high"]
    assert found["floor"]["tokens"] == 10 * 23 + 6
    state = state_of(model)
    assert state.step == 0
    again = measure(HFReader(model), windows, [0.2, 0.05], step=3)
    by_level = {row["level"]: row for row in again["levels"]}
    assert by_level[0.2] == found["levels"][1], "addressed noise: the order of levels is nothing"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("fidelity")
    save(build_model(MiniatureShape(layers=1), 0), build_tokenizer(), path / "model")
    (path / "text.txt").write_text("12+34=46 " * 40)
    (path / "short.txt").write_text("1")
    return path


def call(folder: Path, *args: str) -> int:
    given = ["--model", str(folder / "model"), "--text", str(folder / "text.txt"), *args]
    with pytest.raises(SystemExit) as left:
        _run("fidelity", given)
    return int(left.value.code or 0)


def test_the_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "fidelity.json"
    assert call(folder, "--levels", "0.05,0.2", "--context", "16", "--out", str(out)) == 0
    said = capsys.readouterr().out
    assert "kl_99.9" in said and "floor" in said and "7 of 7 sites" in said
    found = json.loads(out.read_text())
    assert found["attestation"]["passed"] and found["engine"] == "hf-eager"
    assert [row["level"] for row in found["levels"]] == [0.05, 0.2]
    assert "of 300 tokens agree" in said and found["sampling"] == {"seed": 0, "temperature": 1.0}
    few, many = (row["sampled"]["agree"]["value"] for row in reversed(found["levels"]))
    assert few < many <= found["floor"]["sampled"]["agree"]["value"]
    page = panels.read([out])["fidelity"][0]
    assert [row["level"] for row in page["sampled"]] == [0.05, 0.2, None]
    assert call(folder, "--levels", "0.2", "--no-sampled", "--out", str(out)) == 0
    found = json.loads(out.read_text())
    assert found["sampling"] is None and found["levels"][0]["sampled"] is None
    assert panels.read([out])["fidelity"][0]["sampled"] == []


def test_its_file_has_a_dose(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "levels.json"
    levels = "0.02,0.05,0.1,0.2,0.4"
    assert call(folder, "--levels", levels, "--context", "16", "--out", str(out)) == 0
    found = json.loads(out.read_text())
    for row in found["levels"]:
        mean = sum(row["kl_by_window"]) / sum(found["tokens_by_window"])
        assert mean == pytest.approx(row["measures"]["kl_mean"]["value"], rel=1e-12)
    between = (found["levels"][1]["measures"]["kl_mean"]["value"]
               + found["levels"][2]["measures"]["kl_mean"]["value"]) / 2  # fmt: skip
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        _run("dose", [str(out), "--kl", str(between)])
    assert not left.value.code
    assert "KL has reached" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        _run("dose", [str(out)])
    assert left.value.code == 2 and "give --kl NATS" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--levels", "0"), "over 0"),
        (("--levels", "x"), "--levels 'x'"),
        (("--context", "1"), "a window needs 2 tokens"),
        (("--text", "nowhere.txt"), "--text nowhere.txt: can't be read"),
        (("--model", "nowhere"), "not a Hugging Face checkpoint"),
    ],
)
def test_bad_settings(
    folder: Path, args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(folder, *args) == 2
    assert message in capsys.readouterr().err
    assert call(folder, "--text", str(folder / "short.txt")) == 2

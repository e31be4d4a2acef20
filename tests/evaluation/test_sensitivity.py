"""The sensitivity map: against models wrapped anew, its file, its command. About 20 s."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hetero_plugin.cli import _run
from hetero_plugin.config import AQNConfig, ConfigError, NoiseConfig
from hetero_plugin.evaluation import records
from hetero_plugin.evaluation.fidelity.batch import MEASURES, FixedBatch
from hetero_plugin.evaluation.fidelity.panel import token_rows
from hetero_plugin.evaluation.fidelity.resample import Resamples
from hetero_plugin.evaluation.fidelity.session import Asked
from hetero_plugin.evaluation.sensitivity import run
from hetero_plugin.evaluation.sensitivity.page import grid
from hetero_plugin.evaluation.sensitivity.ranking import Budget, factors
from hetero_plugin.hf import disabled, unwrap, wrap
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save

SHAPE = MiniatureShape(layers=2, hidden=32, intermediate=48)
DTYPES = (torch.float32, torch.bfloat16)


def windows(count: int = 9, length: int = 12) -> list[torch.Tensor]:
    """Of equal length, and one shorter."""
    generator = torch.Generator().manual_seed(2)
    found = [torch.randint(3, 60, (length,), generator=generator) for _ in range(count)]
    return [*found, torch.randint(3, 60, (length // 2 - 1,), generator=generator)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sums_of_a_batch_are_those_of_its_windows(dtype: torch.dtype) -> None:
    model = wrap(build_model(SHAPE, 0).to(dtype).eval(), NoiseConfig(scale=0.2), quiet=True)
    text = windows()
    batch = FixedBatch(model, text)
    found = batch.measure()
    assert batch.tokens.tolist() == [11.0] * 9 + [4.0] and set(found) == set(MEASURES)
    # The shorter window is a batch of its own: bit for bit its pass alone.
    ids = text[-1][None]
    with torch.no_grad():
        noisy = model(input_ids=ids).logits[0, :-1]
        with disabled(model):
            clean = model(input_ids=ids).logits[0, :-1]
    rows = token_rows(clean, noisy, ids[0, 1:])
    ratio = np.exp(rows["delta_logp"])
    wanted = {
        "kl": rows["kl"].sum(),
        "loss": -rows["delta_logp"].sum(),
        "mean-dlogp": np.abs(rows["delta_logp"]).sum(),
        "ratio-out": float(((ratio < 0.9) | (ratio > 1.1)).sum()),
    }
    assert {name: found[name][-1] for name in MEASURES} == wanted
    assert batch.floor["kl"][-1] == 0.0
    assert found["kl"].sum() > 20 * batch.floor["kl"].sum()


def test_resamples_are_means_over_tokens_and_cover() -> None:
    tokens = np.array([3.0, 5.0] * 20)
    resamples = Resamples(tokens, 2)
    constant = np.stack([tokens * 0.5, tokens * 0.7])
    found = resamples.interval(constant)
    assert found["value"] == pytest.approx(0.6)
    assert (found["low"], found["high"]) == pytest.approx((0.5, 0.7)), "the draws differ"
    assert np.isclose(resamples.values(constant), 0.6).mean() == pytest.approx(0.5, abs=0.05)
    rng = np.random.default_rng(3)
    inside = 0
    for trial in range(200):
        sums = (rng.exponential(size=40) * tokens)[None]
        row = Resamples(tokens, 1, seed=trial).interval(sums)
        inside += row["low"] <= 1.0 <= row["high"]
    # 95 % of a skewed mean of 40 is a little less by such quantiles; 200 trials: ± 3.5 points.
    assert 0.88 <= inside / 200 <= 0.985
    with pytest.raises(ValueError, match="7 windows; an interval needs 8"):
        Resamples(tokens[:7])


@pytest.fixture(scope="module", params=DTYPES, ids=["float32", "bfloat16"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sensitivity")
    save(build_model(SHAPE, 0).to(request.param), build_tokenizer(), path / "model")
    (path / "text.txt").write_text("".join(f"{n}+{2 * n}={3 * n} " for n in range(11, 40)))
    (path / "short.txt").write_text("1+2=3")
    return path


def asked(folder: Path, spec: Any = "linear", **more: Any) -> Asked:
    config = run.sensitivity_spec(spec, None, None)
    given = {"tokens": 100, "context": 12, **more}  # 8 windows of 12, one of 4
    return Asked(folder / "model", folder / "text.txt", config, **given)


def again(folder: Path, names: list[str], step: int, dtype: torch.dtype) -> float:
    """The KL with error at these sites, in a model that is wrapped for them alone."""
    from transformers import AutoModelForCausalLM

    tokenizer = build_tokenizer()
    ids = tokenizer.encode((folder / "text.txt").read_text(), add_special_tokens=False)[:100]
    text = [torch.tensor(ids[i : i + 12]) for i in range(0, 100, 12)]
    model = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=dtype).eval()
    wrap(model, NoiseConfig(targets=names, scale=0.05), quiet=True)
    from hetero_plugin.hf import set_step

    set_step(model, step)
    batch = FixedBatch(model, text)
    found = float(batch.measure()["kl"].sum() / batch.tokens.sum())
    unwrap(model)
    return found


def test_a_map(folder: Path, tmp_path: Path) -> None:
    """Each pass is that of a model wrapped anew; a map that stops goes on; the page's parts."""
    what = asked(folder)
    told: list[str] = []

    def stop(task: str, done: int, of: int) -> None:
        told.append(task)
        if task == "measuring sites" and done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.measure_checkpoint(what, tmp_path / "map", budget=Budget(sites=3), progress=stop)
    kept = json.loads((tmp_path / "map" / "measured.json").read_text())
    assert len(kept["conditions"]) == 7 and "attesting" in told
    found = run.measure_checkpoint(what, tmp_path / "map", budget=Budget(sites=3))
    whole = run.measure_checkpoint(what, tmp_path / "whole", budget=Budget(sites=3))
    assert len(found.pop("sessions")) == 2 and len(whole.pop("sessions")) == 1
    assert found == whole, "interrupted or not"

    dtype = getattr(torch, found["dtype"])
    rows = {row["name"]: row for row in found["sites"]}
    assert len(rows) == 15 and [row["rank"] for row in found["sites"]] == list(range(1, 16))
    values = [row["kl"]["value"] for row in found["sites"]]
    assert values == sorted(values, reverse=True) and values[-1] > 0
    for row in rows.values():
        assert row["rank_low"] <= row["rank"] <= row["rank_high"]
        assert row["kl"]["low"] <= row["kl"]["value"] <= row["kl"]["high"]
    assert sum(row["share"] for row in rows.values()) == pytest.approx(1)
    one = "model.layers.1.mlp.down_proj"
    same: Callable[[float], Any] = lambda x: pytest.approx(x, rel=1e-12)  # noqa: E731
    assert rows[one]["kl"]["value"] == same(again(folder, [one], 0, dtype))
    everything = found["all"]["kl"]["value"]
    assert everything == same(again(folder, list(rows), 0, dtype))
    without = again(folder, [name for name in rows if name != one], 0, dtype)
    assert rows[one]["recovers_alone"]["value"] == pytest.approx(1 - without / everything)
    layer = [name for name in rows if ".layers.0." in name]
    assert found["by_layer"]["0"]["kl"]["value"] == same(again(folder, layer, 0, dtype))

    suggestion = found["suggestion"]
    assert suggestion["keep_clean"] == [row["name"] for row in found["sites"][:3]]
    on = [name for name in rows if name not in suggestion["keep_clean"]]
    for key, step in (("recovered", 0), ("checked_in_a_fresh_draw", 1)):
        wanted = 1 - again(folder, on, step, dtype) / again(folder, list(rows), step, dtype)
        assert suggestion[key]["value"] == pytest.approx(wanted, abs=1e-12)
    assert "keeping 3 of 15 sites clean recovers" in suggestion["sentence"]

    page = (tmp_path / "map" / "sensitivity.md").read_text()
    assert page.count("model.layers.1.mlp.down_proj") >= 1 and "| 15 (" in page
    assert (tmp_path / "map" / "sensitivity.png").read_bytes().startswith(b"\x89PNG")
    layers, operators, table = grid(found)
    assert layers == ["0", "1", "outside"] and operators[-1] == "lm_head"
    assert table[1, operators.index("mlp.down_proj")] == rows[one]["kl"]["value"]
    assert np.isnan(table).sum() == 2 + 7


def test_the_map_is_a_file_of_aqn_multipliers(folder: Path, tmp_path: Path) -> None:
    found = run.measure_checkpoint(
        asked(folder, "rmsnorm"), tmp_path / "map", budget=Budget(sites=1), all_but_one=False
    )
    assert found["sites"][0]["recovers_alone"] is None
    kl = {int(layer): row["kl"]["value"] for layer, row in found["by_layer"].items()}
    wanted = factors(kl)
    assert wanted[0] == pytest.approx(
        min(max(math.sqrt(kl[0] / math.sqrt(kl[0] * kl[1])), 0.5), 2.0), abs=1e-4
    )
    path = tmp_path / "map" / "sensitivity.json"
    config = AQNConfig(schedule="constant", multipliers=path)
    assert {layer: config.factor(layer) for layer in (0, 1)} == wanted and config.factor(None) == 1
    spec = tmp_path / "spec.yaml"
    spec.write_text("rules: []\naqn: {schedule: constant, multipliers: map/sensitivity.json}\n")
    read = NoiseConfig.parse(str(spec), where="--config").aqn
    assert read is not None and read.multipliers == config.multipliers


def test_factors() -> None:
    assert factors({0: 1e-4, 1: 1e-4}) == {0: 1.0, 1: 1.0}
    assert factors({0: 4e-4, 1: 1e-4}) == {0: 1.4142, 1: 0.7071}
    assert factors({0: 1.0, 1: 1e-9, 2: 0.0}) == {0: 2.0, 1: 0.5, 2: 0.5}
    assert factors({}) == factors({3: 0.0}) == {}


def test_a_site_that_is_worse_than_others_is_found(folder: Path, tmp_path: Path) -> None:
    bad = "model.layers.0.self_attn.v_proj"
    spec = {
        "rules": [
            {"targets": ["*.down_proj", "*.q_proj"], "scale": 0.01},
            {"targets": [bad], "scale": 1.0},
        ]
    }
    found = run.measure_checkpoint(
        asked(folder, spec, draws=2), tmp_path, budget=Budget.parse("50%"), all_but_one=False
    )
    assert found["suggestion"]["keep_clean"] == [bad], "each rule keeps its own scale"
    assert found["suggestion"]["checked_in_a_fresh_draw"]["low"] > 0.9
    assert found["sites"][0]["rank_high"] == 1 and found["draws"] == 2
    kept = json.loads((tmp_path / "measured.json").read_text())["conditions"]
    assert np.array(kept["all"]["kl"]).shape == (2, 9)
    assert np.array(kept["fresh: keep clean 1"]["kl"]).shape == (1, 9)


def test_another_map_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    def refused(match: str, **more: Any) -> None:
        spec = more.pop("spec", "rmsnorm")
        with pytest.raises(records.ResultError, match=match):
            run.measure_checkpoint(
                asked(folder, spec, **more), tmp_path, budget=Budget(1), all_but_one=False
            )

    run.measure_checkpoint(asked(folder, "rmsnorm"), tmp_path, budget=Budget(1), all_but_one=False)
    before = (tmp_path / "measured.json").read_bytes()
    refused("holds another map .*fingerprint: .* there, .* now", spec="mlp")
    refused("dtype: .* there, 'float64' now", dtype="float64")
    refused("context: 12 there, 11 now", context=11)
    text = (folder / "text.txt").read_text()
    (folder / "text.txt").write_text(text + ".")
    refused("text_sha256")
    (folder / "text.txt").write_text(text)
    assert (tmp_path / "measured.json").read_bytes() == before
    data = json.loads(before)
    (tmp_path / "measured.json").write_text(json.dumps({**data, "format": 0}))
    refused("is no unfinished sensitivity map of format 1")


def test_budgets() -> None:
    assert Budget.parse("12") == Budget(sites=12) and Budget.parse(" 7.5% ") == Budget(share=0.075)
    for text in ("0", "0%", "-1", "100%", "many", "", "1e3"):
        with pytest.raises(ConfigError, match="--budget"):
            Budget.parse(text)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    save(
        build_model(MiniatureShape(layers=1, hidden=32, intermediate=48), 0).to(torch.bfloat16),
        build_tokenizer(),
        tmp_path / "model",
    )
    (tmp_path / "text.txt").write_text("12+34=46 " * 20)
    (tmp_path / "short.txt").write_text("1+2=3")
    return tmp_path


def call(folder: Path, *args: str) -> int:
    given = ["--model", str(folder / "model"), "--text", str(folder / "text.txt")]
    given += ["--out", str(folder / "out"), "--context", "12", *args]
    with pytest.raises(SystemExit) as left:
        _run("sensitivity", given)
    return int(left.value.code or 0)


def test_the_command(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(small, "--preset", "linear", "--scale", "0.1", "--tokens", "120") == 0
    said = capsys.readouterr()
    assert "keeping" in said.out and "sensitivity.png" in said.out and "floor" in said.out
    assert "measuring sites" in said.err
    found = json.loads((small / "out" / "sensitivity.json").read_text())
    assert found["spec"]["rules"][0]["scale"] == 0.1 and found["dtype"] == "bfloat16"
    assert found["sessions"][0]["attestation"]["passed"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--scale", "0"), "rules[0].scale is 0"),
        (("--config", '{"rules": [], "aqn": {"schedule": "constant"}}'), "no rule that acts"),
        (("--config", '{"targets": ["*.none"], "scale": 1}'), "'*.none'"),
        (("--tokens", "50"), "make 5 windows of 12; an interval needs 8 windows"),
        (("--context", "1"), "a window needs 2 tokens"),
        (("--model", "nowhere"), "not a Hugging Face checkpoint"),
        (("--text", "nowhere.txt"), "--text nowhere.txt: can't be read"),
        (("--budget", "x"), "--budget 'x'"),
        (("--dtype", "float33"), "--dtype float33"),
    ],
)
def test_bad_settings(
    small: Path, args: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(small, *args) == 2
    assert message in capsys.readouterr().err
    assert not (small / "out" / "measured.json").exists()

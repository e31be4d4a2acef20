"""`hetero-noise formats`: on Gaussians and on checkpoints, and what it says to bad input."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hetero_plugin.cli import app
from hetero_plugin.config import NoiseConfig
from hetero_plugin.errors import error_model
from hetero_plugin.errors.formats import FORMATS
from hetero_plugin.miniature.model import MiniatureShape, build_model, build_tokenizer, save
from tests.hf.families import make_family

runner = CliRunner()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoint")
    make_family("qwen2", torch.bfloat16).save_pretrained(path)
    return path


def run(*args: str) -> tuple[int, str]:
    done = runner.invoke(app, ["formats", *args])
    return done.exit_code, done.output


def test_gaussians_without_a_model(tmp_path: Path) -> None:
    code, said = run("--json", str(tmp_path / "all.json"))
    assert code == 0 and all(name in said for name in FORMATS)
    rows = {row["format"]: row for row in json.loads((tmp_path / "all.json").read_text())}
    assert rows["nvfp4"]["relative"] == pytest.approx(0.0952, rel=0.01)
    assert rows["nvfp4"]["numbers"] == 1 << 20


def test_a_checkpoint(checkpoint: Path, tmp_path: Path) -> None:
    out, plot = tmp_path / "found.json", tmp_path / "found.svg"
    code, said = run(
        *("--model", str(checkpoint), "--formats", "mxfp4,int8"),
        *("--json", str(out), "--plot", str(plot)),
    )
    assert code == 0, said
    assert "15 matrices" in said and "down_proj" in said  # 7 a layer, and the head
    assert plot.read_text().lstrip().startswith("<?xml")
    rows = json.loads(out.read_text())
    weights = load_file(checkpoint / "model.safetensors")
    assert len(rows) == 30
    for row in rows:
        weight = weights[f"{row['site']}.weight"].float()
        error = (FORMATS[row["format"]].apply(weight) - weight).double()
        expected = math.sqrt(float(error.square().sum() / weight.double().square().sum()))
        assert row["relative"] == pytest.approx(expected, rel=1e-12)


def test_layers_and_what_has_no_tensor(tmp_path: Path) -> None:
    make_family("qwen2", tie_word_embeddings=True).save_pretrained(tmp_path)
    code, said = run("--model", str(tmp_path), "--formats", "int8")
    assert code == 0 and "14 matrices" in said and "lm_head" in said
    code, said = run("--model", str(tmp_path), "--formats", "int8", "--layers", "1")
    assert code == 0 and "7 matrices" in said


def test_shards(checkpoint: Path, tmp_path: Path) -> None:
    model = make_family("qwen2", torch.bfloat16)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    whole = run("--model", str(checkpoint), "--formats", "hif4")[1]
    parts = run("--model", str(tmp_path), "--formats", "hif4")[1]
    # The title holds the folder's name, and a long one widens the table.
    words = [re.findall(r"[\w.%]+", said.partition("numbers")[2]) for said in (whole, parts)]
    assert words[0] == words[1] and "8.33" in words[0]
    next(iter(tmp_path.glob("*.safetensors"))).unlink()
    code, _ = run("--model", str(tmp_path))
    assert code == 2


def test_bad_input(checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    quantised, broken = tmp_path / "quantised", tmp_path / "broken"
    for folder in (quantised, broken):
        folder.mkdir()
    config["quantization_config"] = {"quant_method": "fp8"}
    (quantised / "config.json").write_text(json.dumps(config))
    del config["quantization_config"]
    (broken / "config.json").write_text(json.dumps(config))
    weights = load_file(checkpoint / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    save_file({name: weights[name].to(torch.int8)}, broken / "model.safetensors")
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text(json.dumps(config))
    for args, says in (
        (("--formats", "nvfp5"), "'nvfp5'"),
        (("--layers", "1"), "--model FOLDER"),
        (("--model", str(checkpoint), "--layers", "9"), "layers 0 to 1"),
        (("--model", str(checkpoint), "--layers", "one"), "'one'"),
        (("--model", str(quantised)), "quantised already (fp8)"),
        (("--model", str(broken)), "is int8"),
        (("--model", str(empty)), "no *.safetensors"),
        (("--model", str(tmp_path / "nowhere")), "nowhere"),
        (("--json", str(tmp_path / "no" / "file.json")), "there is no folder"),
    ):
        code, said = run(*args)
        said += capfd.readouterr().err
        assert code == 2 and says in said, (args, said)


# ---- activations ----


@pytest.fixture(scope="module")
def readable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that can read a text, and a text of 180 tokens or more."""
    folder = tmp_path_factory.mktemp("readable")
    save(build_model(MiniatureShape(layers=2), 0), build_tokenizer(), folder)
    (folder / "text.txt").write_text("12 + 34 = 46. " * 60)
    return folder


def test_activations_of_a_text(readable: Path, tmp_path: Path) -> None:
    """Against what the model computes, hooked here once more and rounded by a rule's format."""
    out, plot = tmp_path / "found.json", tmp_path / "found.svg"
    code, said = run(
        *("--model", str(readable), "--data", str(readable / "text.txt"), "--tokens", "100"),
        *("--context", "40", "--formats", "nvfp4,int8", "--json", str(out), "--plot", str(plot)),
    )
    assert code == 0, said
    assert "100 tokens of" in said and "by kind" in said
    assert "activations" in plot.read_text()
    rows = [row for row in json.loads(out.read_text()) if row["tensor"] == "activation"]
    kinds = {row["kind"] for row in rows}
    assert kinds == {"linear", "lm_head", "norm", "activation", "attention"}
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(readable, dtype="auto").eval()
    text = (readable / "text.txt").read_text()
    ids = AutoTokenizer.from_pretrained(readable).encode(text, add_special_tokens=False)[:100]
    layer, read, made = model.model.layers[1], [], []
    layer.mlp.down_proj.register_forward_pre_hook(lambda module, args: read.append(args[0][0]))
    layer.input_layernorm.register_forward_hook(lambda module, args, y: made.append(y[0]))
    with torch.no_grad():
        for start in (0, 40, 80):
            model(torch.tensor([ids[start : start + 40]]))
    for site, tensors in (("mlp.down_proj", read), ("input_layernorm", made)):
        x = torch.cat(tensors).float()
        for name in ("nvfp4", "int8"):
            word = NoiseConfig(error=name, point="input").rules[0].word
            y = error_model(word).function(x, torch.tensor(1.0), None)
            expected = float((y.double() - x.double()).norm() / x.double().norm())
            (row,) = [
                row
                for row in rows
                if row["site"] == f"model.layers.1.{site}" and row["format"] == name
            ]
            assert row["relative"] == pytest.approx(expected, rel=1e-6)
            assert row["numbers"] == x.numel()


def test_bad_texts(readable: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty.txt").write_text("")
    text, model = str(readable / "text.txt"), str(readable)
    for args, says in (
        (("--data", text), "need a checkpoint"),
        (("--model", model, "--data", str(tmp_path / "none.txt")), "none.txt"),
        (("--model", model, "--data", str(tmp_path / "empty.txt")), "holds 0 tokens"),
        (("--model", model, "--data", text, "--tokens", "1"), "a window needs 2 tokens"),
    ):
        code, said = run(*args, "--formats", "int8")
        said += capfd.readouterr().err
        assert code == 2 and says in said, (args, said)

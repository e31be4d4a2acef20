"""What is given to others: a wheel and an sdist with every file, and the wheel alone at work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from configparser import ConfigParser
from pathlib import Path

import pytest

import hetero_plugin
from hetero_plugin.kernels import KERNEL

ROOT = Path(__file__).parents[1]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "entry_points.txt")


def run(*args: object, folder: Path, **environment: str) -> str:
    """A Python process in ``folder`` that does not see the checkout; its output."""
    done = subprocess.run(
        [sys.executable, *map(str, args)],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def sources() -> set[str]:
    """Every file of the package in the checkout."""
    return {
        str(path.relative_to(ROOT))
        for path in (ROOT / "hetero_plugin").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy to build in, so that nothing is left in the checkout, nor an old build used."""
    folder = tmp_path_factory.mktemp("clone")
    for name in PARTS:
        shutil.copy(ROOT / name, folder)
    for name in ("hetero_plugin", "scripts"):
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    return folder


@pytest.fixture(scope="module")
def wheel(clone: Path) -> Path:
    """Built by the backend that is installed: no network."""
    options = ("--no-build-isolation", "--no-deps", "--no-index", "--quiet")
    run("-m", "pip", "wheel", ".", *options, "-w", clone / "wheels", folder=clone)
    (built,) = (clone / "wheels").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel alone, in a folder that comes first on the path of a process."""
    folder = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--quiet", "--target", folder)
    run("-m", "pip", "install", *options, wheel, folder=folder)
    return folder


def test_the_wheel_has_every_file_and_no_other(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        about = f"hetero_plugin-{hetero_plugin.__version__}.dist-info"
        metadata = archive.read(f"{about}/METADATA").decode()
        points = ConfigParser()
        points.read_string(archive.read(f"{about}/entry_points.txt").decode())
    assert {name for name in names if not name.startswith(about)} == sources()
    assert {"op.cpp", "philox.h"} <= {Path(name).name for name in names}
    assert f"\nVersion: {hetero_plugin.__version__}\n" in metadata
    written = ConfigParser()
    written.read(ROOT / "entry_points.txt")
    assert {s: dict(points[s]) for s in points.sections()} == {
        s: dict(written[s]) for s in written.sections()
    }


def test_dist_builds_both_and_the_sdist_has_every_file(clone: Path) -> None:
    said = run("-m", "scripts.dist", "dist", folder=clone)
    stem = f"hetero_plugin-{hetero_plugin.__version__}"
    assert f"{stem}.tar.gz" in said and f"{stem}-py3-none-any.whl" in said
    with tarfile.open(clone / "dist" / f"{stem}.tar.gz") as archive:
        names = {name.removeprefix(f"{stem}/") for name in archive.getnames()}
    assert sources() | set(PARTS) <= names


WORK = """
import json, sys, tempfile
from importlib import metadata
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

import hetero_plugin
from hetero_plugin import unwrap, wrap
from hetero_plugin.cli import _run
from hetero_plugin.kernels import KERNEL

assert Path(hetero_plugin.__file__).is_relative_to(sys.argv[1]), hetero_plugin.__file__
mine = [d for d in metadata.distributions(path=[sys.argv[1]]) if d.name == "hetero-plugin"]
assert [d.version for d in mine] == [hetero_plugin.__version__]
for point in mine[0].entry_points:
    assert point.load() is not None, point

torch.manual_seed(0)
shape = dict(hidden_size=64, intermediate_size=128, num_hidden_layers=1, num_attention_heads=4)
config = AutoConfig.for_model("qwen2", num_key_value_heads=2, vocab_size=256, **shape)
model, ids = AutoModelForCausalLM.from_config(config).eval(), torch.tensor([[1, 2, 3]])
clean = model(ids).logits
assert not torch.equal(wrap(model)(ids).logits, clean)
assert torch.equal(unwrap(model)(ids).logits, clean)
config.save_pretrained("model")


def call(*args):
    try:
        _run(args[0], list(args[1:]))
    except SystemExit as left:
        assert not left.code, (args, left.code)


call("plan", "--model", "model", "--preset", "all")
call("schedule", "--total-steps", "20")
call("schema")

from hetero_plugin.vllm import register

register()
from vllm.model_executor.layers.quantization import QUANTIZATION_METHODS

assert "hetero_noise" in QUANTIZATION_METHODS
print("kernel", KERNEL)
"""


@pytest.mark.slow
def test_the_wheel_alone_works(installed: Path, tmp_path: Path) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK)
    said = run(script, installed, folder=tmp_path, PYTHONPATH=str(installed))
    assert "total: " in said and "step  sigma" in said and '"$schema"' in said
    assert f"kernel {KERNEL}" in said  # from sources equal to the checkout's

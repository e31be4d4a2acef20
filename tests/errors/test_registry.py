"""One registry of error models: an entry and its arithmetic are all there is to one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hetero_plugin.config.error_models import KEYS, REGISTRY
from hetero_plugin.config.options import OPTIONS
from hetero_plugin.config.rule import NoiseRule
from hetero_plugin.errors import MODELS, error_model
from hetero_plugin.errors.base import ARITHMETIC, arithmetic

PACKAGE = Path(__file__).parents[2] / "hetero_plugin"
NATIVE = {name: traits.kernel for name, traits in REGISTRY.items() if traits.native}


def run(code: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Runs code with the package of a folder (the working directory comes first on the path)."""
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def test_the_registry_is_read_without_torch() -> None:
    done = run("import hetero_plugin.config.error_models, sys; print('torch' in sys.modules)")
    assert done.stdout.strip() == "False", done.stderr


def test_each_entry_has_arithmetic_and_each_arithmetic_an_entry() -> None:
    assert set(MODELS) == set(REGISTRY) == set(ARITHMETIC)
    for name, traits in REGISTRY.items():
        assert traits.name == name and MODELS[name].function is ARITHMETIC[name]
        assert (
            traits.relative_of is None
            or error_model(traits.relative_of, relative=True).name == name
        )
    assert set(KEYS) <= set(NoiseRule.model_fields)
    assert set(KEYS["options"]) == set(OPTIONS)
    assert all(traits.blend for traits in REGISTRY.values() if traits.number_format)


def test_arithmetic_without_an_entry_or_a_second_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'relative_gausian'.*config/error_models\.py"):
        arithmetic("relative_gausian")(MODELS["truncation"].function)
    with pytest.raises(ValueError, match=r"errors\.deterministic; one of the two"):
        arithmetic("truncation")(MODELS["relative_gaussian"].function)


def test_the_cpp_kernel_knows_the_names_and_numbers_of_the_registry() -> None:
    text = (PACKAGE / "kernels" / "cpu" / "op.cpp").read_text()
    (body,) = re.findall(r"enum class Model \{([^}]*)\}", text)
    numbers = {word.strip(): number for number, word in enumerate(body.split(","))}
    cases = re.findall(r'error == "(\w+)"\) go\(by_dtype<Model::(\w+)>\)', text)
    assert {name: numbers[word] for name, word in cases} == NATIVE
    assert len(cases) == len(numbers)


def test_triton_knows_the_names_and_numbers_of_the_registry() -> None:
    pytest.importorskip("triton")
    from hetero_plugin.kernels.cuda import draw, value

    assert value.MODELS == NATIVE
    drawn = {"normal": draw.GAUSSIAN, "uniform": draw.UNIFORM, None: draw.NOTHING}
    for name, number in NATIVE.items():
        assert value.DRAWS[number] == drawn[REGISTRY[name].draws].value


ENTRY = 'ErrorTraits(name="coarse", formula="z·s/2", additive=True, draws="normal"),\n'
FUNCTION = """
from hetero_plugin.errors.base import arithmetic


@arithmetic("coarse")
def _coarse(x, scale, z):
    return z * scale / 2
"""


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with another entry in its table."""
    folder = tmp_path_factory.mktemp("copy")
    shutil.copytree(PACKAGE, folder / "hetero_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    table = folder / "hetero_plugin" / "config" / "error_models.py"
    text = table.read_text()
    assert text.count("\n_TABLE = (\n") == 1
    table.write_text(text.replace("\n_TABLE = (\n", f"\n_TABLE = (\n    {ENTRY}"))
    return folder


def test_an_entry_and_its_arithmetic_are_all(copied: Path) -> None:
    (copied / "hetero_plugin" / "errors" / "coarse.py").write_text(FUNCTION)
    done = run(
        "from hetero_plugin import NoiseConfig\n"
        "from hetero_plugin.config.schema import json_schema\n"
        "from hetero_plugin.errors import error_model\n"
        "rule = NoiseConfig(error='coarse', scale=0.5).rules[0]\n"
        "import torch\n"
        "x, s, z = torch.ones(2, 3), torch.tensor(rule.scale), torch.full((2, 3), 8.0)\n"
        "print(error_model(rule.error).function(x, s, z).eq(2).all().item())\n"
        "print('coarse' in json_schema()['$defs']['NoiseRule']['properties']['error']['enum'])\n",
        copied,
    )
    assert done.stdout.split() == ["True", "True"], done.stderr


def test_an_entry_without_arithmetic_is_an_error_that_names_it(copied: Path) -> None:
    (copied / "hetero_plugin" / "errors" / "coarse.py").unlink(missing_ok=True)
    done = run("import hetero_plugin.errors", copied)
    assert (
        "ImportError: no file of hetero_plugin/errors has the arithmetic of coarse" in done.stderr
    )

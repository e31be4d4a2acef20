"""What docs/security.md claims, as far as a program can tell."""

from __future__ import annotations

import ast
import json
import os
from pathlib import Path

import pytest

from hetero_plugin.config import ConfigError, NoiseConfig
from hetero_plugin.evaluation import results

PACKAGE = Path(__file__).parents[1] / "hetero_plugin"
SOURCES = sorted(PACKAGE.rglob("*.py"))
# What a specification passes through on its way from text to tensors.
ROUTE = [
    *(PACKAGE / "config").glob("*.py"),
    *(PACKAGE / "sites").glob("*.py"),
    PACKAGE / "cli" / "options.py",
]
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
PICKLES = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "marshal", "shelve", "joblib"}
UNPICKLES = {"load", "loads", "Unpickler", "open"}
LOADERS = {"torch.load", "torch.serialization.load"}


def _calls(tree: ast.AST) -> set[str]:
    """Names of called functions: ``f(...)`` as f, ``a.b(...)`` as a.b."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
    return found


def _names(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for: ``import pickle as p`` as {"p": "pickle"}."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                found[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found


def unpickled(source: str) -> list[str]:
    """Every place of ``source`` that unpickles whatever it is given, or may."""
    tree = ast.parse(source)
    names = _names(tree)

    def full(node: ast.AST) -> str:
        first, dot, rest = ast.unparse(node).partition(".")
        return names.get(first, first) + dot + rest

    found, called = [], {id(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name, given = full(node.func), {word.arg: word.value for word in node.keywords}
            safe = given.get("weights_only")
            tensors = isinstance(safe, ast.Constant) and safe.value is True
            pickles = given.get("allow_pickle")
            if (
                (name in LOADERS and not tensors)
                or name.endswith(".read_pickle")
                or (pickles is not None and ast.unparse(pickles) != "False")
            ):
                found.append(ast.unparse(node))
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Load):
            name = full(node)
            module, _, attribute = name.rpartition(".")
            # Handed on under another name, it would be called out of sight.
            if (module.split(".")[0] in PICKLES and attribute in UNPICKLES) or (
                name in LOADERS and id(node) not in called
            ):
                found.append(name)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_source_evaluates_text_or_unpickles(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert not _calls(tree) & FORBIDDEN_CALLS
    assert not unpickled(path.read_text(encoding="utf-8"))
    assert "trust_remote_code=True" not in ast.unparse(tree)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path)",
        "import torch\ntorch.load(path, weights_only=False)",
        "import torch as t\nt.load(path, map_location='cpu', weights_only=safe)",
        "from torch import load\nload(path)",
        "from torch.serialization import load as read\nread(path)",
        "import torch\ntorch.load(path, **{'weights_only': True})",
        "import torch\nread = torch.load\nread(path, weights_only=False)",
        "import pickle\npickle.loads(data)",
        "import pickle as p\np.load(file)",
        "from pickle import Unpickler as U\nU(file).load()",
        "from cloudpickle import loads\nmap(loads, parts)",
        "import shelve\nshelve.open(path)",
        "import numpy as np\nnp.load(path, allow_pickle=True)",
        "import pandas as pd\npd.read_pickle(path)",
    ],
)
def test_what_unpickles_is_seen_by_its_arguments(source: str) -> None:
    assert unpickled(source)


@pytest.mark.parametrize(
    "source",
    [
        "import torch\ntorch.load(path, map_location='cpu', weights_only=True)",
        "import pickle\ntry:\n    read()\nexcept pickle.UnpicklingError:\n    pass",
        "import pickle\npickle.dumps(value)",
        "import json\njson.loads(text)",
        "import numpy as np\nnp.load(path, allow_pickle=False)",
    ],
)
def test_what_reads_data_alone_is_let_through(source: str) -> None:
    assert not unpickled(source)


@pytest.mark.parametrize("path", ROUTE, ids=lambda p: p.name)
def test_the_way_of_a_specification_imports_nothing_by_name(path: Path) -> None:
    calls = _calls(ast.parse(path.read_text(encoding="utf-8")))
    assert not {name for name in calls if name.split(".")[-1] in ("import_module", "load_module")}
    assert not calls & {"yaml.unsafe_load", "yaml.full_load", "os.system", "subprocess.run"}


@pytest.mark.parametrize(
    "text",
    [
        "scale: !!python/object/apply:os.mkdir ['MARK']",
        "scale: !!python/name:os.mkdir",
        "!!python/object/new:os.mkdir ['MARK']",
        "scale: !!python/module:antigravity",
    ],
)
def test_yaml_makes_no_objects(text: str, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / "spec.yaml"
    path.write_text(text.replace("MARK", str(mark)))
    with pytest.raises(ConfigError, match="not valid YAML"):
        NoiseConfig.parse(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "value",
    [
        {"scale": 0.1, "error": "os.system"},
        {"scale": 0.1, "error": "hetero_plugin.errors:MODELS"},
        {"preset": "../../etc/passwd"},
        {"scale": "__import__('os').getpid()"},
        {"scale": 0.1, "targets": ["model.norm"], "cls": "os.system"},
    ],
)
def test_no_value_names_code(value: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        NoiseConfig.parse(value)


def test_text_is_a_file_only_if_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "all-mine").write_text("scale: 0.1")
    monkeypatch.chdir(tmp_path)
    for text in ("all-mine", str(tmp_path / "all-mine"), "/etc/passwd"):
        with pytest.raises(ConfigError, match="it should be a preset"):
            NoiseConfig.parse(text)


def test_results_of_another_run_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "eval.json"
    results.write_json(path, results.new({"n": 4, "seed": 0}))
    before = path.read_bytes()
    with pytest.raises(results.ResultError, match="holds another run"):
        results.resume(path, {"n": 4, "seed": 1})
    assert path.read_bytes() == before


def test_an_interrupted_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "eval.json"
    results.write_json(path, {"n": 1})

    def broken(*args: object, **kwargs: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", broken)
    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="no space"):
        results.write_json(path, {"n": 2})
    assert json.loads(path.read_text()) == {"n": 1}

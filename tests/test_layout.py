"""The house: who may import whom, and how large a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "hetero_plugin"

# Each folder imports only from itself and from those above it here.
FOLDERS = (
    "config",
    "errors",
    "random",
    "sites",
    "kernels",
    "aqn",
    "state",
    "operator",
    "attestation",
    "hf",
    "vllm",
    "trl",
    "verl",
    "miniature",
    "figures",
    "profile",
    "evaluation",
    "study",
    "cli",
)
CORE = FOLDERS[: FOLDERS.index("attestation")]
CORE_MAY_IMPORT = {"torch", "pydantic", "pydantic_core", "hetero_plugin"}
# Imported late, inside the function that reads a YAML file, with an error that names the extra.
LATE_IN_CORE = {("config", "yaml")}
FILES = sorted(PACKAGE.rglob("*.py"))


def folder_of(path: Path) -> str:
    """The folder of the package that a file is in."""
    return path.relative_to(PACKAGE).parts[0]


def test_every_folder_is_in_the_order_and_there_is_no_other_file() -> None:
    there = {p.name for p in PACKAGE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert there == set(FOLDERS)
    assert {p.name for p in PACKAGE.glob("*.*")} == {"__init__.py", "__init__.pyi", "py.typed"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_concept_of_several_files_is_a_folder(path: Path) -> None:
    """`report_data.py` beside `report.py` would be `report/data.py`."""
    words = path.stem.split("_")
    for end in range(1, len(words)):
        stem = "_".join(words[:end])
        beside = path.with_name(f"{stem}.py")
        if stem and beside.exists():
            raise AssertionError(f"{path.name} beside {beside.name}: make a folder {stem}/")


def executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below `if TYPE_CHECKING:`, which are names for types only."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from executed(node)


def imports(tree: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    for node in executed(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            if node.module == "hetero_plugin":
                for alias in node.names:
                    yield f"hetero_plugin.{alias.name}", node
            else:
                yield node.module or "", node


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_folder_and_those_above(path: Path) -> None:
    if path == PACKAGE / "__init__.py":
        return  # the shop window: names everything, imports it on first use
    folder = folder_of(path)
    allowed = set(FOLDERS[: FOLDERS.index(folder) + 1])
    for name, node in imports(ast.parse(path.read_text())):
        parts = name.split(".")
        if parts[0] != "hetero_plugin" or len(parts) == 1:
            continue
        target = parts[1]
        line = getattr(node, "lineno", 0)
        assert target not in FOLDERS or target in allowed, (
            f"{path.name}:{line}: folder {folder} imports {name}, from a folder below it"
        )


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if folder_of(path) in CORE],
    ids=lambda p: str(p.relative_to(PACKAGE)),
)
def test_the_core_imports_torch_and_pydantic_only(path: Path) -> None:
    for name, node in imports(ast.parse(path.read_text())):
        top = name.split(".")[0]
        known = top in sys.stdlib_module_names or top in CORE_MAY_IMPORT
        # Triton comes with torch on GPU machines, and is only imported there.
        triton = top == "triton" and folder_of(path) == "kernels"
        late = (folder_of(path), top) in LATE_IN_CORE and getattr(node, "col_offset", 0) > 0
        assert known or triton or late, f"{path.name} imports {name}"


def test_the_core_really_loads_nothing_else() -> None:
    core = [
        f"hetero_plugin.{'.'.join(p.relative_to(PACKAGE).with_suffix('').parts)}"
        for p in FILES
        if folder_of(p) in CORE and p.name != "__init__.py" and "triton" not in p.name
    ]
    code = (
        "import sys, importlib\n"
        f"for name in {core!r}: importlib.import_module(name)\n"
        "heavy = {'vllm', 'transformers', 'verl', 'ray', 'accelerate', 'yaml', 'typer', 'scipy'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_the_package_itself_loads_nothing() -> None:
    # vLLM and verl import it in every process that they start.
    code = "import sys, hetero_plugin; print('torch' in sys.modules, 'pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_no_file_outgrows_one_concept(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines < 400, f"{path.name} has {lines} lines: is that one concept?"


def test_public_names_are_there_and_unknown_ones_are_not() -> None:
    import hetero_plugin

    stub = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            stub |= {alias.name: node.module for alias in node.names}
    assert sorted(stub) == hetero_plugin.__all__
    for name in hetero_plugin.__all__:
        assert getattr(hetero_plugin, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        hetero_plugin.no_such_name  # noqa: B018


def test_entry_points_are_those_of_the_file() -> None:
    from configparser import ConfigParser
    from importlib.metadata import entry_points

    file = ConfigParser()
    file.read(PACKAGE.parent / "entry_points.txt")
    assert set(file.sections()) == {
        "console_scripts",
        "vllm.general_plugins",
        "vllm.endpoint_plugins",
        "vllm.platform_plugins",
        "verl.plugins",
    }
    for group in file.sections():
        for name, value in file[group].items():
            installed = [e for e in entry_points(group=group) if e.name == name]
            assert [e.value for e in installed] == [value]
            assert installed[0].load() is not None


def test_every_data_file_is_in_the_wheel() -> None:
    # An editable install finds them in any case; a wheel has only what pyproject.toml names.
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["*"]
    suffixes = {pattern.removeprefix("**/*") for pattern in patterns}
    for path in PACKAGE.rglob("*"):
        if path.is_file() and path.suffix != ".py" and "__pycache__" not in path.parts:
            assert path.suffix in suffixes or path.name in patterns, path

#!/usr/bin/env python3
"""Does a published vLLM have what this package relies on? Read from its wheel, without running it.

    python scripts/check_vllm.py 0.24.0 [0.33.0 ...] [--wheel FILE]

Downloads each wheel with pip, one at a time (some 500 MB), and looks by AST for

- every patch target of hetero_plugin/vllm/patches.py, with the parameters that it relies on;
- every function that is called or overridden with parameters by name;
- every name that hetero_plugin imports from vLLM;
- every attribute that it reads from an object of vLLM whose class can be told from the source, and
  methods of an object that it calls on the class (wheel_reads.py);
- the extension points: plugin groups, `additional_config` in the compile hash.

Prints a table for each version, and exits with 1 if something is missing in any.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
PACKAGE = ROOT / "hetero_plugin"
Function = ast.FunctionDef | ast.AsyncFunctionDef

# (module, words that its source must contain, what for)
WITHOUT_IT = ("vllm.endpoint_plugins",)  # everything else works without the endpoint over HTTP
WORDS = (
    ("vllm.plugins", ("vllm.general_plugins",), "entry point that registers everything"),
    ("vllm.plugins", ("vllm.platform_plugins",), "name of the CPU wheel"),
    ("vllm.plugins", ("vllm.endpoint_plugins",), "HTTP endpoint"),
    ("vllm.config.vllm", ("additional_config", "compute_hash"), "specs in the compile hash"),
    ("vllm.v1.engine.core", ("reset_running_requests",), "running requests are computed anew"),
)

LAYERS = "vllm.model_executor.layers"
LINEAR = (f"{LAYERS}.linear", "UnquantizedLinearMethod")
# (module, class or "", function, parameters that are passed to it or taken over from it)
CALLED = (
    (*LINEAR, "create_weights", "layer input_size_per_partition output_partition_sizes input_size "
     "output_size params_dtype"),
    (*LINEAR, "apply", "layer x bias"),
    (*LINEAR, "process_weights_after_loading", "layer"),
    (f"{LAYERS}.vocab_parallel_embedding", "UnquantizedEmbeddingMethod", "apply", "layer x bias"),
    (f"{LAYERS}.utils", "", "dispatch_cpu_unquantized_gemm", "layer remove_weight"),
    (f"{LAYERS}.linear", "RowParallelLinear", "forward", "input_"),
    (f"{LAYERS}.attention", "Attention", "forward", "query key value"),
    ("vllm.ir.ops.layernorm", "", "rms_norm", "x weight epsilon variance_size"),
    ("vllm.ir.ops.layernorm", "", "fused_add_rms_norm", "x x_residual weight epsilon"),
    ("vllm.v1.engine.core", "EngineCore", "reset_prefix_cache",
     "reset_running_requests reset_connector"),
    ("vllm.v1.core.sched.scheduler", "Scheduler", "reset_prefix_cache",
     "reset_running_requests reset_connector"),
    ("vllm.distributed.kv_transfer.kv_connector.v1.base", "KVConnectorBase_V1", "reset_cache", ""),
    ("vllm.v1.engine.async_llm", "AsyncLLM", "pause_generation", "mode clear_cache"),
    ("vllm.v1.engine.async_llm", "AsyncLLM", "resume_generation", ""),
    ("vllm.v1.engine.async_llm", "AsyncLLM", "is_paused", ""),
    ("vllm.v1.engine.core_client", "AsyncMPClient", "_call_utility_async", "method engine"),
    ("vllm.v1.engine.async_llm", "AsyncLLM", "reset_prefix_cache", ""),
    ("vllm.v1.engine.core_client", "BackgroundResources", "__call__", ""),
)  # fmt: skip


@dataclass
class Row:
    """One thing that is relied on."""

    what: str
    where: str
    found: bool
    detail: str


class Wheel:
    """The Python sources of a wheel, parsed on demand."""

    def __init__(self, path: Path) -> None:
        self._archive = zipfile.ZipFile(path)
        self._names = set(self._archive.namelist())
        self._trees: dict[str, ast.Module | None] = {}

    def source(self, module: str) -> str | None:
        """The text of a module; None if the wheel has none of that name."""
        base = module.replace(".", "/")
        for name in (f"{base}.py", f"{base}/__init__.py"):
            if name in self._names:
                return self._archive.read(name).decode()
        return None

    def tree(self, module: str) -> ast.Module | None:
        if module not in self._trees:
            text = self.source(module)
            self._trees[module] = None if text is None else ast.parse(text)
        return self._trees[module]

    def is_package(self, module: str) -> bool:
        return f"{module.replace('.', '/')}/__init__.py" in self._names

    def class_of(self, module: str, name: str) -> tuple[str, ast.ClassDef] | None:
        """A class and the module that defines it, through what modules import from each other."""
        tree = self.tree(module)
        for node in _statements(tree):
            if isinstance(node, ast.ClassDef) and node.name == name:
                return module, node
        for node in _statements(tree):
            if isinstance(node, ast.ImportFrom):
                for alias in node.names:
                    if (alias.asname or alias.name) == name:
                        return self.class_of(_origin(node, module, self), alias.name)
        return None

    def method(self, module: str, owner: str, name: str) -> Function | None:
        """A method of a class or of those it inherits from; a function, if ``owner`` is empty."""
        if not owner:
            for node in _statements(self.tree(module)):
                if isinstance(node, Function) and node.name == name:
                    return node
            return None
        found = self.class_of(module, owner)
        if found is None:
            return None
        where, cls = found
        for node in cls.body:
            if isinstance(node, Function) and node.name == name:
                return node
        for base in cls.bases:
            if isinstance(base, ast.Name):
                inherited = self.method(where, base.id, name)
                if inherited is not None:
                    return inherited
        return None

    def defines(self, module: str, name: str) -> bool:
        """Whether ``from module import name`` would work."""
        if self.tree(f"{module}.{name}") is not None:
            return True
        for node in _statements(self.tree(module)):
            if isinstance(node, Function | ast.ClassDef) and node.name == name:
                return True
            if isinstance(node, ast.ImportFrom) and node.names[0].name == "*":
                if self.defines(_origin(node, module, self), name):
                    return True
            elif isinstance(node, ast.ImportFrom | ast.Import) and any(
                (alias.asname or alias.name) == name for alias in node.names
            ):
                return True
            targets = node.targets if isinstance(node, ast.Assign) else []
            targets = [node.target] if isinstance(node, ast.AnnAssign) else targets
            if any(isinstance(one, ast.Name) and one.id == name for one in targets):
                return True
        # Names that a module's __getattr__ looks up in a table of strings.
        text = self.source(module) or ""
        return "def __getattr__" in text and f'"{name}"' in text


def _statements(tree: ast.AST | None) -> Iterator[ast.AST]:
    """Statements at a module's level, also below if and try."""
    for node in ast.iter_child_nodes(tree) if tree is not None else ():
        yield node
        if isinstance(node, ast.If | ast.Try | ast.ExceptHandler | ast.With):
            yield from _statements(node)


def _origin(node: ast.ImportFrom, module: str, wheel: Wheel) -> str:
    if not node.level:
        return node.module or ""
    parts = module.split(".") if wheel.is_package(module) else module.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def parameters(function: Function) -> tuple[str, ...]:
    """Names of a function's parameters, in the order that `inspect.signature` has."""
    given = function.args
    names = [a.arg for a in (*given.posonlyargs, *given.args)]
    names += [given.vararg.arg] if given.vararg else []
    names += [a.arg for a in given.kwonlyargs]
    names += [given.kwarg.arg] if given.kwarg else []
    return tuple(names)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below ``if TYPE_CHECKING:``."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        yield node
        yield from _executed(node)


def imported() -> Iterator[tuple[str, str, str]]:
    """(file, module, name) of everything that the package imports from vLLM when it runs.

    Not what it imports for types alone: a vLLM that lacks such a name runs all the same, and mypy
    says so of the installed one (tests/engines/test_types.py).
    """
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in _executed(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                for alias in node.names:
                    yield str(path.relative_to(PACKAGE)), str(node.module), alias.name


def package_sources(root: Path = PACKAGE) -> dict[str, str]:
    """The text of each file of the package, by its path."""
    return {str(path.relative_to(root)): path.read_text() for path in sorted(root.rglob("*.py"))}


def check_reads(wheel: Wheel, sources: dict[str, str]) -> list[Row]:
    """Every attribute that is read from an object of vLLM, looked up in a wheel."""
    from wheel_reads import Classes, reads

    places: dict[tuple[str, str, str], list[str]] = {}
    for read, wrong in reads(sources, Classes(wheel)):
        what = f"{'.'.join(read.held.cls)}.{read.name}"
        places.setdefault((what, wrong, read.held.cls[1]), []).append(read.place)
    return [
        Row("read", what, not wrong, f"{wrong}; in {', '.join(found)}" if wrong else "")
        for (what, wrong, _), found in sorted(places.items())
    ]


def check(wheel: Wheel) -> list[Row]:
    """Everything that is relied on, looked up in a wheel."""
    from hetero_plugin.vllm import patches

    rows = check_reads(wheel, package_sources())
    for target in patches.WRAPPED + patches.SERVED + patches.FOLLOWED:
        function = wheel.method(target.module, target.owner, target.name)
        found = () if function is None else parameters(function)
        kinds = {ast.unparse(d) for d in function.decorator_list} if function else set()
        expected = target.parameters
        if expected is not None and "classmethod" in kinds:
            expected = ("cls", *expected)
        ok = function is not None and expected in (None, found)
        detail = "" if ok else "gone" if function is None else f"takes ({', '.join(found)})"
        rows.append(Row("patch target", str(target), ok, detail))
    for module, owner, name, needs in CALLED:
        function = wheel.method(module, owner, name)
        lacking = set(needs.split()) - set(() if function is None else parameters(function))
        detail = "gone" if function is None else f"without {', '.join(sorted(lacking))}"
        ok = function is not None and not lacking
        rows.append(Row("called", f"{module}.{owner or '-'}.{name}", ok, "" if ok else detail))
    for module, words, why in WORDS:
        text = wheel.source(module) or ""
        missing = [word for word in words if word not in text]
        detail = f"{why}: no {', '.join(missing)}" if missing else ""
        rows.append(Row("extension point", f"{module}: {', '.join(words)}", not missing, detail))
    names: dict[tuple[str, str], list[str]] = {}
    for path, module, name in imported():
        names.setdefault((module, name), []).append(path)
    for (module, name), paths in sorted(names.items()):
        ok = wheel.defines(module, name)
        used = ", ".join(sorted(set(paths)))
        rows.append(Row("import", f"{module}.{name}", ok, "" if ok else f"gone; in {used}"))
    return rows


def download(version: str, folder: str) -> Path:
    """The wheel of a version, fetched by pip."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
    command += ["--only-binary=:all:", "--python-version=3.12", "--implementation=cp"]
    for platform in ("manylinux_2_34", "manylinux_2_31", "manylinux_2_28", "manylinux1"):
        command += [f"--platform={platform}_x86_64"]
    subprocess.run([*command, "--abi=abi3", "--abi=cp312", f"vllm=={version}"], check=True)
    (found,) = Path(folder).glob("*.whl")
    return found


def report(version: str, rows: list[Row]) -> int:
    """Prints one version's table: what is missing, and how many of each sort are there."""
    print(f"\nvllm {version}")
    missing = [row for row in rows if not row.found]
    needed = [row for row in missing if not any(word in row.where for word in WITHOUT_IT)]
    for what in ("patch target", "called", "extension point", "import", "read"):
        mine = [row for row in rows if row.what == what]
        print(f"  {what:17} {sum(row.found for row in mine):3} of {len(mine):3}")
    for row in missing:
        print(
            f"  {'MISSING' if row in needed else 'without'} {row.what}: {row.where}: {row.detail}"
        )
    return len(needed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", help="versions on the package index")
    parser.add_argument("--wheel", type=Path, help="a wheel that is there already")
    given = parser.parse_args()
    bad = 0
    if given.wheel is not None:
        bad += report(given.wheel.name, check(Wheel(given.wheel)))
    for version in given.versions:
        with tempfile.TemporaryDirectory() as folder:  # deleted before the next is fetched
            bad += report(version, check(Wheel(download(version, folder))))
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())

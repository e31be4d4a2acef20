"""scripts/check_vllm.py on the installed vLLM, whole and with two changes that have to be seen."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

found = importlib.util.find_spec("vllm")
if found is None or found.origin is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)
ROOT = Path(found.origin).parents[1]
SCRIPT = Path(__file__).parents[2] / "scripts" / "check_vllm.py"
CORE, BASE = "vllm/v1/engine/core.py", "vllm/v1/worker/worker_base.py"


ENDPOINT = "vllm.plugins: vllm.endpoint_plugins"  # vLLM 0.24 has none yet


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_vllm", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_vllm"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


def wheel(path: Path, changes: dict[str, str | None]) -> Path:
    """The sources of the installed vLLM as a wheel; None leaves a file out."""
    with zipfile.ZipFile(path, "w") as archive:
        for source in sorted((ROOT / "vllm").rglob("*.py")):
            name = str(source.relative_to(ROOT))
            text = changes.get(name, source.read_text(encoding="utf-8"))
            if text is not None:
                archive.writestr(name, text)
    return path


@pytest.fixture(scope="module")
def whole(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The installed vLLM as a wheel; what is parsed once stays parsed."""
    return script.Wheel(wheel(tmp_path_factory.mktemp("wheel") / "whole.whl", {}))


@pytest.mark.compat("registration")
def test_the_installed_vllm_has_everything(
    script: ModuleType, whole: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = script.check(whole)
    endpoints = importlib.util.find_spec("vllm.plugins.endpoint_plugins") is not None
    assert [row.where for row in rows if not row.found] == ([] if endpoints else [ENDPOINT])
    kinds = {"patch target", "called", "extension point", "import", "read"}
    assert {row.what for row in rows} == kinds
    assert script.report("installed", rows) == 0
    assert "MISSING" not in capsys.readouterr().out


def test_what_has_changed_or_is_gone_is_named(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    core = (ROOT / CORE).read_text(encoding="utf-8")
    other = core.replace("timeout: float | None", "deadline: float | None")
    assert other != core
    changed = wheel(tmp_path / "changed.whl", {CORE: other, BASE: None})
    assert script.report("changed", script.check(script.Wheel(changed))) >= 2
    said = capsys.readouterr().out
    assert "EngineCore.collective_rpc: takes (self, method, deadline, args, kwargs)" in said
    assert "WorkerWrapperBase.init_device: gone" in said


READER = """
from vllm.base import Config, Head, Other

class Ours(Config):
    def __init__(self, inner: Config | None) -> None:
        self.inner = inner
        self.suffixes = inner.suffixes if hasattr(inner, "suffixes") else ()

    def mapper(self):
        return (self.inner or Config).mapper()

    def newer(self):
        return self.inner.newer()

def check(model, given: "Config"):
    for module in model.modules():
        if isinstance(module, Head):
            print(module.dtype, module.weight, module.training, module.scale)
        elif isinstance(module, Other | Head):
            print(module.size)
    print(given.head.dtype)
"""
CLASSES = """
from torch import nn

class Config:
    head: "Head"
    def mapper(self): ...

class Head(nn.Module):
    def __init__(self, layer):
        self.scale = 1.0
        layer.register_parameter("weight", None)

class Other(Head):
    size: int
"""


def test_what_is_read_and_what_is_called_on_a_class_is_looked_up(
    script: ModuleType, tmp_path: Path
) -> None:
    """Methods that a later version has are not asked for where nothing would call ours."""

    def wrong(base: str) -> set[tuple[str, str]]:
        path = tmp_path / f"{len(base)}.whl"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("vllm/base.py", base)
        rows = script.check_reads(script.Wheel(path), {"ours.py": READER})
        assert len([row for row in rows if row.found]) >= 4
        return {(row.where, row.detail) for row in rows if not row.found}

    assert wrong(CLASSES) == {
        ("vllm.base.Config.mapper", "a method of an object, called on the class; in ours.py:10"),
        ("vllm.base.Head.dtype", "not there; in ours.py:18, ours.py:21"),
        ("vllm.base.Head.size", "not there; in ours.py:20"),
    }
    newer = CLASSES.replace("def mapper(self)", "@staticmethod\n    def mapper()")
    newer = newer.replace("self.scale = 1.0", "self.scale, self.dtype, self.size = 1.0, None, 1")
    assert wrong(newer) == set()


STOPPED = """
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

class Ours(QuantizationConfig):
    def __init__(self, inner: QuantizationConfig | None = None) -> None:
        super().__init__()
        self.inner = inner

    def get_cache_scale_mapper(self):
        return (self.inner or QuantizationConfig).get_cache_scale_mapper()

def check_head(model, dtype):
    for module in model.modules():
        if isinstance(module, LogitsProcessor):
            if module.head_dtype not in (None, dtype):
                raise ValueError(module.head_dtype)
"""
"""What stopped every noisy model on vLLM 0.24.0, as it stood in the package."""


@pytest.mark.compat("registration")
def test_what_stopped_on_0_24_is_seen_there_and_nowhere_else(
    script: ModuleType, whole: Any
) -> None:
    """Python's own view of the installed classes says what has to be found."""
    from vllm.model_executor.layers.logits_processor import LogitsProcessor
    from vllm.model_executor.layers.quantization.base_config import QuantizationConfig

    expected = set()
    mapper = inspect.getattr_static(QuantizationConfig, "get_cache_scale_mapper")
    if inspect.isfunction(mapper):
        expected.add(("get_cache_scale_mapper", "a method of an object, called on the class"))
    if "self.head_dtype = " not in inspect.getsource(LogitsProcessor):
        expected.add(("head_dtype", "not there"))
    rows = script.check_reads(whole, {"ours.py": STOPPED})
    found = {(r.where.rpartition(".")[2], r.detail.split(";")[0]) for r in rows if not r.found}
    assert found == expected
    assert {row.where.rpartition(".")[2] for row in rows} >= {
        "get_cache_scale_mapper",
        "head_dtype",
    }

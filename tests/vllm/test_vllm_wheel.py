"""scripts/check_vllm.py on the installed vLLM, whole and with two changes that have to be seen."""

from __future__ import annotations

import importlib.util
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

found = importlib.util.find_spec("vllm")
if found is None or found.origin is None:
    pytest.skip("vLLM is not installed", allow_module_level=True)
ROOT = Path(found.origin).parents[1]
SCRIPT = Path(__file__).parents[2] / "scripts" / "check_vllm.py"
CORE, BASE = "vllm/v1/engine/core.py", "vllm/v1/worker/worker_base.py"


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


def test_the_installed_vllm_has_everything(
    script: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = script.check(script.Wheel(wheel(tmp_path / "whole.whl", {})))
    assert [row for row in rows if not row.found] == []
    assert {row.what for row in rows} == {"patch target", "called", "extension point", "import"}
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

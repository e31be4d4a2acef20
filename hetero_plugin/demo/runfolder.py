"""The run folder: which run it holds, which stages are finished, where everything lies.

    settings.json            what was asked for (its `demo` part is the run's identity)
    stages/NAME.json         a finished stage: hash of its inputs, seconds, result, output files
    logs/NAME.log            what a stage's processes printed
    data/                    train, development and test questions (parquet)
    model/                   the checkpoint that every arm starts from
    arms/ARM/                training of an arm: metrics.jsonl, train.json, checkpoints/, model/
    eval/ARM.json            its evaluation
    report.json, report.html

A finished stage is taken over only if its inputs are the same and its outputs are still what it
wrote; so an interrupted run goes on where it was, and a damaged one repeats what is damaged.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hetero_plugin.config import ConfigError
from hetero_plugin.demo.settings import LABELS, DemoSettings, digest
from hetero_plugin.evaluation import files

FORMAT = 1


class FolderError(ConfigError):
    """The output folder cannot be used; nothing in it was changed."""


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that no reader, second writer or crash ever meets half of it."""
    files.write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Settings that differ between two identities, as `name: old there, new here`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        found = []
        for key in sorted({*old, *new}):
            inner = f"{name}.{key}" if name else str(key)
            found += differences(old.get(key), new.get(key), inner)
        return found
    return [] if old == new else [f"{name}: {old} there, {new} here"]


class RunFolder:
    """One run's folder. Use as a context manager: the folder is locked meanwhile."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held = contextlib.ExitStack()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def settings_file(self) -> Path:
        return self.path / "settings.json"

    def arm(self, arm: str) -> Path:
        return self.path / "arms" / arm

    def arm_model(self, arm: str) -> Path:
        return self.arm(arm) / "model"

    def evaluation(self, arm: str) -> Path:
        return self.path / "eval" / f"{arm}.json"

    def log(self, stage: str) -> Path:
        """File for what a stage prints; its folder is made."""
        folder = self.path / "logs"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{stage.replace(':', '-')}.log"

    def claim(self, settings: DemoSettings) -> bool:
        """Take the folder for this run, or go on with the same run in it.

        Returns:
            True if the folder already held this run.

        Raises:
            FolderError: it holds another run, something else, or is in use; nothing is changed.
        """
        identity = settings.identity()
        if self.path.exists() and not self.path.is_dir():
            raise FolderError(f"--out {self.path} is a file; give a folder")
        known = self._check_contents(identity)
        self.path.mkdir(parents=True, exist_ok=True)
        self._held.enter_context(
            files.locked(
                self.path,
                lock=self.path / ".lock",
                error=lambda words: FolderError(f"--out {words}"),
                remedy="wait for that hetero-noise demo, or give another folder",
            )
        )
        if not known:
            document = {
                "format": FORMAT,
                "title": "Robustness of a GRPO-trained miniature to hardware error",
                "seed": settings.seed,
                "margin": settings.margin,
                "baseline": "clean" if "clean" in settings.arms else settings.arms[0],
                "labels": {arm: LABELS[arm] for arm in settings.arms},
                "demo": identity,
            }
            write_json(self.settings_file, document)
        return known

    def _check_contents(self, identity: dict[str, Any]) -> bool:
        if self.settings_file.is_file():
            try:
                there = json.loads(self.settings_file.read_text(encoding="utf-8"))["demo"]
            except (ValueError, KeyError, TypeError):
                raise FolderError(
                    f"{self.settings_file} is not the settings of a demonstration run; give "
                    "another --out, or remove the folder"
                ) from None
            changed = differences(there, identity)
            if changed:
                raise FolderError(
                    f"--out {self.path} holds another run ({'; '.join(changed[:5])}). Nothing was "
                    "overwritten; give another --out, the settings of that run to go on with it, "
                    "or remove the folder"
                )
            return True
        content = [p.name for p in self.path.iterdir()] if self.path.is_dir() else []
        content = [name for name in content if name != ".lock"]
        if content:
            raise FolderError(
                f"--out {self.path} is not empty ({', '.join(sorted(content)[:4])}) and holds no "
                "demonstration run; give another folder"
            )
        return False

    def _record(self, stage: str) -> Path:
        return self.path / "stages" / f"{stage.replace(':', '-')}.json"

    def read(self, stage: str) -> dict[str, Any] | None:
        """The record of a stage, whatever its inputs were; None if there is none or it is cut."""
        try:
            record = json.loads(self._record(stage).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def finished(self, stage: str, inputs: Any) -> dict[str, Any] | None:
        """The record of a finished stage, if its inputs and outputs are still the same."""
        record = self.read(stage)
        if record is None or record.get("inputs") != digest(inputs):
            return None
        for name, wanted in record.get("outputs", {}).items():
            path = self.path / name
            if not path.is_file() or file_digest(path) != wanted:
                return None
        return record

    def finish(
        self, stage: str, inputs: Any, result: Any, outputs: Iterable[Path], seconds: float
    ) -> dict[str, Any]:
        """Record a stage as finished, with the hashes of the files that it wrote."""
        record = {
            "stage": stage,
            "inputs": digest(inputs),
            "result": result,
            "outputs": {
                os.path.relpath(path, self.path): file_digest(path) for path in sorted(outputs)
            },
            "seconds": round(seconds, 3),
            "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        write_json(self._record(stage), record)
        return record

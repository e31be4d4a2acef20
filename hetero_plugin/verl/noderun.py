"""A verl run on the accelerators of this machine, its settings all given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from hetero_plugin.config import ENVIRONMENT, NoiseConfig

__all__ = ["NodeRun"]


class NodeRun(BaseModel):
    """What `hetero_plugin.verl.launch.execute` needs of such a run."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    output: Path
    """Folder of this run: log, metrics and checkpoints. Absolute."""
    name: str
    steps: int = Field(ge=1)
    noise: NoiseConfig | None = None
    """The specification that the words hold; None: clean."""
    words: tuple[str, ...]
    """Hydra overrides of ``verl.trainer.main_ppo``."""

    @property
    def log(self) -> Path:
        return self.output / "train.log"

    @property
    def metrics(self) -> Path:
        return self.output / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.output / "checkpoints"

    @property
    def checkpoint(self) -> Path:
        """Folder of the last step's actor checkpoint."""
        return self.checkpoints / f"global_step_{self.steps}" / "actor"

    @property
    def resumes(self) -> bool:
        """verl goes on from a checkpoint in the folder unless it is told not to."""
        asked = [word.partition("=") for word in self.words]
        modes = [value for key, _, value in asked if key.lstrip("+") == "trainer.resume_mode"]
        return not modes or modes[-1].strip("'\"") != "disable"

    def environment(self, base: Mapping[str, str] | None = None) -> dict[str, str]:
        """The process environment: ``base`` (default: this process's) with what the run needs."""
        env = dict(os.environ if base is None else base)
        env.pop(ENVIRONMENT, None)  # the words hold the specification
        env["VERL_FILE_LOGGER_PATH"] = str(self.metrics)
        env["PYTHONUNBUFFERED"] = "1"
        return env

"""What a worker of a vLLM engine does for a recording: runs its own layers, and writes the file.

vLLM puts `Extension` into the class of its worker (``worker_extension_cls``); its methods are what
``collective_rpc`` calls. Arguments and results are JSON-able.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import vllm
from vllm.config import set_current_vllm_config

from hetero_plugin.config import ConfigError
from hetero_plugin.profile import machine
from hetero_plugin.profile.header import Header
from hetero_plugin.profile.operators import Operator, Variant, variant
from hetero_plugin.profile.operators.engine import operators_of
from hetero_plugin.profile.recording import Recording, RecordingWriter
from hetero_plugin.profile.running import Kept

__all__ = ["EXTENSION", "Extension"]

EXTENSION = "hetero_plugin.profile.worker.Extension"


@dataclass
class _Job:
    writer: RecordingWriter
    inputs: Recording
    operators: dict[str, Operator]
    how: Variant
    kept: Kept


class Extension:
    """The worker's calls for a recording."""

    vllm_config: Any
    device: Any
    model_runner: Any

    def hetero_noise_facts(self, word: str) -> dict[str, Any]:
        """The machine's facts under a variant, and the dtype of the model."""
        with variant(word).around():
            facts = machine.facts(str(self.device))
        config = self.vllm_config
        facts["vllm"] = str(vllm.__version__)
        facts["enforce_eager"] = str(config.model_config.enforce_eager)
        facts["custom_ops"] = ",".join(config.compilation_config.custom_ops)
        return {"facts": facts, "dtype": str(config.model_config.dtype).removeprefix("torch.")}

    def hetero_noise_begin(self, header: str, out: str, inputs: str, held: bool) -> dict[str, Any]:
        """Begins a recording, or goes on with one.

        Args:
            header: JSON, without sites.
            out: the file.
            inputs: a recording that holds inputs.
            held: whether they go into the file too.

        Returns:
            ``sites``: names of the sites that can be recorded, in order; ``left_out``: name -> why.
        """
        made = Header(**json.loads(header))
        config = self.vllm_config.model_config.hf_text_config.to_dict()
        operators, left_out = operators_of(self.model_runner.get_model(), config, made.columns)
        source = Recording.open(inputs)
        there = source.sites()
        writer = RecordingWriter(Path(out), made)
        kept = Kept(writer, held)
        self._job = _Job(writer, source, operators, variant(made.variant), kept)
        names = [name for name in there if name in operators]
        return {"sites": names, "left_out": {k: v for k, v in left_out.items() if k in there}}

    def hetero_noise_record(self, name: str) -> None:
        """Records one site, if that is not done yet."""
        job: _Job = self._job
        if job.writer.has(name):
            return
        operator, given = job.operators[name], job.inputs.site(name)
        with (
            torch.inference_mode(),
            set_current_vllm_config(self.vllm_config, check_compile=False),
            job.how.around(),
        ):
            job.kept.add(
                operator,
                job.how.change(operator),
                given.inputs,
                given.reference,
                self.device,
            )
        if given.entry.n != operator.n:
            raise ConfigError(f"{name}: has {operator.n} columns here, {given.entry.n} there")

    def hetero_noise_end(self) -> None:
        """Finishes the file."""
        self._job.writer.close()
        del self._job

"""An engine of two ranks whose second can be spoiled: `TPServer` in the engine's process."""

from __future__ import annotations

from typing import Any

from tests.engines.vllm_engine import Engine, Server


class TPEngine(Engine):
    """``spoil`` and ``mend`` change rank 1 alone; ``attest`` says what is refused."""

    def refusal(self) -> str:
        return self.ask("attest")


class TPServer(Server):
    def __init__(self, **settings: Any) -> None:
        self.spec = settings["additional_config"]["hetero_noise"]
        super().__init__(**settings)

    def attest(self) -> str:
        from hetero_plugin.attestation import attest, problems
        from hetero_plugin.config import NoiseConfig
        from hetero_plugin.vllm.probe import VLLMProbe

        config = NoiseConfig.parse(self.spec)
        return "; ".join(problems(attest(VLLMProbe(self.llm, config)), config.fingerprint))

    def spoil(self, what: str) -> None:
        self.llm.collective_rpc(_spoil, args=(what,))

    def mend(self) -> None:
        self.llm.collective_rpc(_mend)


def _spoil(worker: Any, what: str) -> None:
    if worker.rank != 1:
        return
    state = worker.hetero_noise.state
    if what == "silent":  # settings no longer reach what this rank's graph reads
        state.scales.zero_()
        state._write_scales = lambda: None
    else:  # the same setting, another draw
        write = type(state)._write_clock

        def other() -> None:
            write(state)
            state.draw.clock.add_(1)

        state._write_clock = other
        other()


def _mend(worker: Any) -> None:
    state = worker.hetero_noise.state
    state.__dict__.pop("_write_scales", None)
    state.__dict__.pop("_write_clock", None)
    state._write_scales()
    state._write_clock()


TPEngine.server = TPServer

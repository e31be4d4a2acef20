"""The tensors that compiled code reads: scales, clock, row keys, AQN offsets.

They belong to no module: a cast, a move, a state dict, a wrapper that shards parameters can't touch
them. They are written in place and never replaced (but by `NoiseState.to`), so a compiled or
captured graph that read them once follows every later setting without being compiled again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hetero_plugin import random
from hetero_plugin.aqn.offsets import AQNState
from hetero_plugin.config import AQNConfig, ConfigError, NoiseConfig, table_number, whole_step
from hetero_plugin.config.error_models import REGISTRY
from hetero_plugin.kernels.copies import own
from hetero_plugin.sites import Selected, Site, aqn_sites, counts, select
from hetero_plugin.state.draw import SETTING, Draw, digest
from hetero_plugin.state.profiles import profile_word
from hetero_plugin.state.slots import Phase, Slot, check_point, streams
from hetero_plugin.state.words import tell_of_a_clean_copy, warn_of_rules

__all__ = ["NoiseState"]


class NoiseState:
    """Everything that one model's noise depends on at run time.

    Args:
        config: the spec.
        sites: the sites of the loaded model; a rule that hits none of them is an error.
        device: where the model computes.
        max_rows: rows of the static row-key buffer, for engines with static input buffers.
    """

    def __init__(
        self,
        config: NoiseConfig,
        sites: Sequence[Site],
        device: str | torch.device = "cpu",
        max_rows: int | None = None,
    ) -> None:
        self.config = config
        self.sites = tuple(sites)
        self.device = torch.device(device)
        self.selected: tuple[Selected, ...] = select(config, self.sites)
        self.slots: list[Slot] = []
        for chosen in self.selected:
            for rule_index, rule in chosen.rules:
                check_point(rule_index, rule, chosen.site)
                if REGISTRY[rule.error].measured:
                    profile_word(rule_index, rule, chosen.site, config.seed)  # refuses early
                for stream in streams(rule, chosen.site.kind):
                    self.slots.append(
                        Slot(len(self.slots) + 1, chosen.site, rule_index, rule, stream)
                    )
        self._by_address = {(s.site.name, s.rule_index, s.stream): s.index for s in self.slots}
        for index, rule in enumerate(config.rules):
            table_number(f"rules[{index}].scale", rule.scale)
        self._base = [0.0] + [slot.rule.scale for slot in self.slots]
        self._on = [True] * (len(self.slots) + 1)
        self._switch = True
        self._aqn_switch = True
        self._holds: list[object] = []
        self.phase: Phase | None = None
        self.step = 0
        with torch.inference_mode(False):
            self.draw = Draw(
                torch.zeros(max_rows or 0, dtype=torch.int64, device=self.device),
                torch.zeros(1, dtype=torch.int64, device=self.device),
                torch.zeros(len(self.slots) + 1, dtype=torch.float32, device=self.device),
            )
            self._calls = torch.zeros(1, dtype=torch.int64, device=self.device)
        self.aqn: AQNState | None = None
        if config.aqn is not None:
            self.attach_aqn()
        self._write_scales()
        self.set_step(0)
        self.stepped = False
        """Whether anybody has set the noise step since."""

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(own(attributes))
        self.device = self.scales.device  # torch.load may have moved them
        if self._holds:
            # The `disabled` that is open ends for the original alone; a copy is as clean as what
            # was copied, and can be switched on.
            self._holds, self._switch = [], False
            tell_of_a_clean_copy()
        self._write_scales()

    @property
    def scales(self) -> Tensor:
        """The scale table of `draw`."""
        return self.draw.scales

    # ---- addresses ----

    @property
    def fingerprint(self) -> str:
        return self.config.fingerprint

    def slot(self, site: str, rule_index: int, stream: str) -> int | None:
        """The entry of the scale table for a stream, or None where no rule puts error."""
        return self._by_address.get((site, rule_index, stream))

    def attach_aqn(self, config: AQNConfig | None = None) -> AQNState:
        """Makes the offsets of the norms that an AQN configuration targets, once.

        Args:
            config: default: the spec's own; with none there, every norm of the model.

        Raises:
            ConfigError: the model has no norm, or a target is not one.
        """
        if self.aqn is None:
            config = config or self.config.aqn or AQNConfig(schedule="constant", sigma_start=0.0)
            spec = NoiseConfig(rules=(), aqn=config)
            norms = aqn_sites(spec, self.sites)
            if not norms:
                raise ConfigError(
                    "AQN needs RMSNorm layers, and this model has none among its sites"
                )
            self.aqn = AQNState(norms, self.device)
            self.aqn.in_dtype = config.precision == "param"
            self.aqn.gate(self.aqn_enabled)
        return self.aqn

    # ---- settings, written in place ----

    @property
    def phase_bound(self) -> bool:
        """Whether some rule applies in one phase only."""
        return any(rule.phase != "both" for rule in self.config.rules)

    def _write_scales(self) -> None:
        with SETTING:
            enabled = self.enabled
            values = [0.0] * len(self._base)
            for slot in self.slots:
                if not enabled or not self._on[slot.index]:
                    continue
                if slot.rule.phase in ("both", self.phase):
                    values[slot.index] = self._base[slot.index]
                elif self.phase is None and self._base[slot.index] > 0:
                    # Nobody has said which phase it is. The operator refuses a NaN scale, also in
                    # compiled code, where no Python is left that could ask.
                    values[slot.index] = math.nan
            self.in_force = tuple(values)
            """The scale table as Python numbers, for words: reading it would wait for a device."""
            self.nonzero = tuple(value != 0 for value in values)  # NaN too
            """Which entries of the scale table are not 0."""
            self.scales.copy_(torch.tensor(values, dtype=torch.float32, device="cpu"))
            if self.aqn is not None:
                self.aqn.gate(self.aqn_enabled)

    def set_step(self, step: int) -> None:
        """Sets the noise step: the resample key of ``resample: step``.

        Raises:
            ConfigError: no whole number from 0 to 2⁶³ − 1.
        """
        self.step = whole_step(step)
        self.stepped = True
        self._write_clock()

    def _write_clock(self) -> None:
        if self.config.resample == "call":
            # On the device, because a captured graph replays it and a compiled one must not guard
            # on a Python counter. The same arithmetic as `random.clock_key`.
            base = random.seed_base(self.config.seed)
            self.draw.clock.copy_(random.mix64_tensor((self._calls * 2 + 1) ^ base))
        else:
            key = self.step if self.config.resample == "step" else None
            self.draw.clock.fill_(random.clock_key(self.config.seed, key))

    @property
    def enabled(self) -> bool:
        """Whether anything that is set is in force: switched on, and not inside `disabled`."""
        return self._switch and not self._holds

    @property
    def aqn_enabled(self) -> bool:
        """Whether the offsets that AQN sets are in force."""
        return self.enabled and self._aqn_switch

    def set_enabled(self, enabled: bool) -> None:
        """Off: every operator copies its input bit for bit, and AQN's offsets are out of force."""
        self._switch = bool(enabled)
        self._write_scales()

    def set_aqn_enabled(self, enabled: bool) -> None:
        """Switches AQN's offsets alone; what is set meanwhile is in force afterwards."""
        self._aqn_switch = bool(enabled)
        self._write_scales()

    def hold(self) -> object:
        """Puts all that is set out of force, whatever `set_enabled` says, until `release`.

        Holds nest. What is set meanwhile, by whatever call, is in force afterwards.

        Returns:
            What `release` takes.
        """
        hold = object()
        self._holds.append(hold)
        self._write_scales()
        return hold

    def release(self, hold: object) -> None:
        """Ends a hold; nothing happens where this state does not know it."""
        self._holds = [one for one in self._holds if one is not hold]
        self._write_scales()

    def take_over(self, old: NoiseState) -> None:
        """What the training loop has said to another state, which belongs to no spec.

        From a state of the same spec and sites, as after a refused change, also the scales that
        were set and AQN's offsets.
        """
        self.set_step(old.step)
        self.stepped = old.stepped
        self._switch, self._aqn_switch = old._switch, old._aqn_switch
        self._holds = list(old._holds)
        if self.fingerprint == old.fingerprint and self.sites == old.sites:
            self._base, self._on = list(old._base), list(old._on)
            if self.aqn is not None and old.aqn is not None and self.device == old.device:
                self.aqn.restore(old.aqn.saved())
        self.set_phase(old.phase)

    def set_phase(self, phase: Phase | None) -> None:
        """Says what the model is doing, for rules bound to a phase."""
        if phase not in (None, "rollout", "train"):
            raise ConfigError(f"phase is {phase!r}; it must be 'rollout', 'train' or None")
        self.phase = phase
        self._write_scales()

    def check_phase(self) -> None:
        """Raises ConfigError if a rule depends on the phase and nobody has set it."""
        if self.phase is None and self.enabled and self.phase_bound:
            bound = [i for i, rule in enumerate(self.config.rules) if rule.phase != "both"]
            raise ConfigError(
                f"rule(s) {bound} apply in one phase only, and no phase is set: run the model "
                "inside `with phase(model, 'train')` or `with phase(model, 'rollout')`, or give "
                "the rules phase='both'"
            )

    def set_scale(
        self,
        scale: float | None = None,
        *,
        kind: str | None = None,
        site: str | None = None,
        rule: int | None = None,
        enabled: bool | None = None,
    ) -> int:
        """Changes the scale of entries, or switches them: of a kind, site or rule (its number in
        the spec), or all.

        Returns:
            How many entries were addressed.

        Raises:
            ConfigError: nothing to do, a bad scale, a kind or site that the spec does not select.
        """
        if scale is None and enabled is None:
            raise ConfigError("set_scale needs a scale, enabled, or both")
        if scale is not None:
            scale = table_number("scale", scale)
        hit = [
            slot
            for slot in self.slots
            if (kind is None or slot.site.kind == kind)
            and (site is None or slot.site.name == site)
            and (rule is None or slot.rule_index == rule)
        ]
        if not hit:
            kinds = ", ".join(sorted({slot.site.kind for slot in self.slots})) or "none"
            wanted = ", ".join(
                f"{key}={value!r}"
                for key, value in (("kind", kind), ("site", site), ("rule", rule))
                if value is not None
            )
            raise ConfigError(
                f"no noisy site matches {wanted or 'this spec'}; the spec selects kinds: {kinds}. "
                "A site that the spec does not select can't be switched on at run time: name it in "
                "the spec with scale 0"
            )
        for slot in hit:
            if scale is not None:
                self._base[slot.index] = scale
            if enabled is not None:
                self._on[slot.index] = bool(enabled)
        self._write_scales()
        return len(hit)

    def reset_scales(self) -> None:
        """Back to the scales of the spec, everything switched on; AQN's offsets stay as set."""
        self._base = [0.0] + [slot.rule.scale for slot in self.slots]
        self._on = [True] * len(self._base)
        self._switch = self._aqn_switch = True
        self._write_scales()

    # ---- rows ----

    def set_rows(self, token_ids: Tensor, positions: Tensor) -> None:
        """Writes the keys of the coming forward pass into the static buffer's first rows.

        Args:
            token_ids: integer [n], n <= max_rows.
            positions: integer [n], each token's place in its sequence.
        """
        n, most = token_ids.numel(), self.draw.keys.numel()
        if n > most:
            raise RuntimeError(
                f"hetero_noise: a forward pass of {n} rows, but the row-key buffer holds {most}: "
                "the engine's token limit was read wrongly"
            )
        ids, places = token_ids.reshape(-1), positions.reshape(-1)
        torch.ops.hetero_noise.row_keys_(self.draw.keys[:n], ids, places)
        self.next_call()

    def next_call(self) -> None:
        """Counts a forward pass; under ``resample: call`` it draws new noise."""
        if self.config.resample == "call":
            self._calls.add_(1)
            self._write_clock()

    def to(self, device: str | torch.device) -> NoiseState:
        """Moves every tensor; compiled graphs that read the old ones must be made anew."""
        device = torch.device(device)
        if device != self.device:
            self.device = device
            with torch.inference_mode(False):
                self.draw = self.draw.to(device)
                self._calls = self._calls.to(device)
                if self.aqn is not None:
                    self.aqn.to(device)
        return self

    # ---- words ----

    def status(self) -> dict[str, Any]:
        """What is set, as JSON-able data: sites and scales by kind, step, sigma, fingerprint."""
        from hetero_plugin.kernels import kernel_of

        table = self.scales.tolist()
        scales: dict[str, list[float]] = {}
        for slot in self.slots:
            scales.setdefault(slot.site.kind, []).append(table[slot.index])
        return {
            "sites": counts(self.selected),
            "total": len(self.selected),
            # NaN (a phase is missing) is no JSON.
            "scales": {
                kind: [None if math.isnan(value) else value for value in sorted(set(values))]
                for kind, values in scales.items()
            },
            "active": sum(1 for value in table if value > 0),
            "entries": len(self.slots),
            "enabled": self.enabled,
            "phase": self.phase,
            "resample": self.config.resample,
            "seed": self.config.seed,
            "step": self.step,
            "sigma": self.aqn.sigma if self.aqn else None,
            "aqn_enabled": self.aqn_enabled if self.aqn else None,
            "fingerprint": self.fingerprint,
            "kernel": kernel_of(self.device),
            "device": str(self.device),
            # What the operator reads, and not what was asked for.
            "tensors": digest([*self.draw[1:], *([self.aqn.offsets] if self.aqn else [])]),
        }

    def warn_swallowed(self, dtype: torch.dtype) -> None:
        """Warns of rules whose error mostly vanishes in this dtype, or leaves no gradient."""
        warn_of_rules(self.config, dtype)

    def describe(self, where: str) -> str:
        """The one line that every noisy process says."""
        by_kind = Counter(chosen.site.kind for chosen in self.selected)
        kinds = ", ".join(f"{kind} {n}" for kind, n in sorted(by_kind.items())) or "none"
        scales = sorted({rule.scale for rule in self.config.rules})
        aqn = f", AQN {self.config.aqn.schedule}" if self.config.aqn is not None else ""
        directions = {rule.direction for rule in self.config.rules}
        if directions == {"backward"}:
            # An engine that only goes forward is clean under such a spec, and must not seem noisy.
            aqn = ", BACKWARD ONLY: the forward pass is clean" + aqn
        return (
            f"hetero_noise: {where}: {len(self.selected)} sites ({kinds}), "
            f"scale {', '.join(f'{s:g}' for s in scales)}{aqn}, resample {self.config.resample}, "
            f"seed {self.config.seed}, spec {self.fingerprint}"
        )

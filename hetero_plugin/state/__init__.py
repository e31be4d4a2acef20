"""The tensors that compiled code reads: scales, clock, row keys."""

from hetero_plugin.state.draw import SETTING, Draw
from hetero_plugin.state.noise import NoiseState
from hetero_plugin.state.slots import Phase

__all__ = ["SETTING", "Draw", "NoiseState", "Phase"]

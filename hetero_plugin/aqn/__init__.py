"""AQN: per-step Gaussian noise on RMSNorm weights (QeRL, arXiv 2510.11696), held in offsets."""

from hetero_plugin.aqn.controller import AQNController
from hetero_plugin.aqn.offsets import AQNState, Drawn
from hetero_plugin.kernels.fused import shifted_weight

__all__ = ["AQNController", "AQNState", "Drawn", "shifted_weight"]

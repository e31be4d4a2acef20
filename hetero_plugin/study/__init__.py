"""A study as a file: model, data, settings, arms, seeds, evaluation; and what becomes of them."""

from hetero_plugin.study.read import read
from hetero_plugin.study.schema import Arm, Study

__all__ = ["Arm", "Study", "read"]

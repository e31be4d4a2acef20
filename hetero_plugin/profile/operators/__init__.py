"""An engine's operators, each by itself: how to run it, and what it gives in float64."""

from hetero_plugin.profile.operators.base import Inputs, Operator, chosen_columns
from hetero_plugin.profile.operators.variants import VARIANTS, Variant, variant

__all__ = ["VARIANTS", "Inputs", "Operator", "Variant", "chosen_columns", "variant"]

"""The dial: the scale at which a model's mismatch has a wanted size."""

"""A map of where a model breaks: the effect of the error at each site alone."""

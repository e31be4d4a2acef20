"""Dose and response: a curve of accuracy or KL over levels of error, and where it has lost δ."""

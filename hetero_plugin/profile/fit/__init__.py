"""Fitting: from two recordings to the distribution of what differs between them."""

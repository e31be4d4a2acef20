"""Programs of the source tree."""

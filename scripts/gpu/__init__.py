"""The acceptance on one GPU: ``python -m scripts.gpu``, or ``make gpu``."""

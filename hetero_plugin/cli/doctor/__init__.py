"""`hetero-noise doctor`: what this machine can do, and what is missing."""

from hetero_plugin.cli.doctor.command import command

__all__ = ["command"]

"""``hetero-noise profile``: its sub-commands, each a file of this folder."""

from __future__ import annotations

ABOUT = "Records what machines' operators compute, and what is made of it."
COMMANDS: dict[str, str] = {
    "record": "Run a model's operators on known inputs and keep what they give.",
    "import": "Make recordings of tensors that another tool dumped.",
    "fit": "Fit how one recording differs from another.",
    "show": "Show what a profile holds, and how well it fits.",
    "check": "Compare a model with its profile to the machine it imitates.",
}
"""Name -> what it does, in the order of the help."""

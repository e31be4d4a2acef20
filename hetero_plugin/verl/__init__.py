"""verl: GRPO with hardware error in both engines, on a GPU or on no accelerator at all.

verl imports this module in each of its processes (entry-point group ``verl.plugins``). That
must stay cheap, so nothing of verl is imported here: ``install()`` only notes what to do once
verl's own modules have been imported. See ``patches.py`` for every place that is touched.
"""

from __future__ import annotations

from hetero_plugin.verl.patches import install

__all__ = ["install"]

install()

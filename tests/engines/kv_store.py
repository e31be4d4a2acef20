"""KV connectors for tests: vLLM's example, which keeps keys and values in a folder, made to forget.

Engines name them by ``kv_connector_module_path``.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from vllm.distributed.kv_transfer.kv_connector.v1.example_connector import ExampleConnector


class ForgettingConnector(ExampleConnector):
    """Empties its folder when it is told to, unless a file called ``stuck`` lies there."""

    def reset_cache(self) -> bool | None:
        folder = Path(self._storage_path)
        if (folder / "stuck").exists():
            return False
        for one in folder.iterdir():
            shutil.rmtree(one)
        return True


class SilentConnector(ExampleConnector):
    """Says nothing when it is told to forget, which vLLM takes for success."""

    def reset_cache(self) -> bool | None:
        return None

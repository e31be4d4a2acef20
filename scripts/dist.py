"""Builds wheel and sdist with the build backend that is installed: no network is needed.

usage: python -m scripts.dist [folder, default dist]
"""

from __future__ import annotations

import sys
from pathlib import Path

from setuptools import build_meta


def main(folder: Path) -> None:
    """Writes both into ``folder`` and prints their names."""
    folder.mkdir(parents=True, exist_ok=True)
    built = [build_meta.build_sdist(str(folder)), build_meta.build_wheel(str(folder))]
    for name in built:
        print(folder / name)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "dist"))

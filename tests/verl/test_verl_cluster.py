"""Several nodes of a Ray cluster: the specification reaches each, and one without us is named.

Real Ray with up to three raylets on this machine; about half a minute.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

pytest.importorskip("ray")
pytest.importorskip("verl")

from hetero_plugin.config import ENVIRONMENT, NoiseConfig

# Ray puts the driver's own sys.path before a worker's, so a module of the same name would not do.
BARE = """
import sys
class Hides:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "hetero_plugin":
            raise ModuleNotFoundError("No module named 'hetero_plugin'")
sys.meta_path.insert(0, Hides())
"""
OLD = """
import importlib.metadata as metadata
known = metadata.version
def version(distribution_name):
    return "0.0.1" if distribution_name == "hetero-plugin" else known(distribution_name)
metadata.version = version
"""


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_every_node_is_asked_and_the_one_that_lacks_something_is_named(tmp_path: Path) -> None:
    for name, text in (("bare", BARE), ("old", OLD)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "sitecustomize.py").write_text(text)
    script = Path(__file__).with_name("two_nodes.py")
    env = {key: value for key, value in os.environ.items() if key != ENVIRONMENT}
    # A folder of its own: other runs on this machine would take the cluster for theirs. A short
    # one, since sockets lie in it.
    with tempfile.TemporaryDirectory(prefix="ray", ignore_cleanup_errors=True) as own:
        done = subprocess.run(
            [sys.executable, str(script), str(tmp_path)],
            env={**env, "VERL_PLATFORM": "cpu", "RAY_TMPDIR": own},
            capture_output=True,
            text=True,
            timeout=380,
            check=False,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["one"] == "1 nodes" and said["two"] == "2 nodes"
    sent = NoiseConfig.parse({"preset": "linear", "scale": 0.05}).fingerprint
    other = said["another specification"]
    assert other.startswith("2 of 2 nodes") and f"given the specification {sent}" in other
    for name, words in (
        ("bare", "No module named 'hetero_plugin'"),
        ("old", "hetero-plugin 0.0.1"),
    ):
        told = said[name]["told"]
        assert told.startswith("1 of 3 nodes of the Ray cluster can't take part"), told
        assert f"({said[name]['node']}): " in told and words in told, told
        assert "Install this version of hetero-plugin on every node" in told

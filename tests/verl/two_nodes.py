"""Run by test_verl_cluster: real Ray with several raylets; what check_nodes says of them.

    python two_nodes.py FOLDER

Prints a JSON object. FOLDER holds what a node's PYTHONPATH begins with: in ``bare`` the package is
hidden, in ``old`` it has another version.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import ray
from omegaconf import OmegaConf
from ray.cluster_utils import Cluster

from hetero_plugin.config import ENVIRONMENT, ConfigError, NoiseConfig
from hetero_plugin.verl.cluster import check_nodes

NOISE = {"preset": "linear", "scale": 0.05}


def sent() -> dict[str, Any]:
    """The runtime environment that verl's driver sends, through the function that we patch."""
    from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

    rollout = {"quantization": "hetero_noise", "custom": {"hetero_noise": NOISE}}
    config = OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}})
    found: dict[str, Any] = get_ppo_ray_runtime_env(config)
    return found


def told(config: NoiseConfig) -> str:
    try:
        return f"{check_nodes(config)} nodes"
    except ConfigError as error:
        return str(error)


def main(folder: Path) -> None:
    config = NoiseConfig.parse(NOISE)
    assert ENVIRONMENT not in os.environ, "nothing may be inherited from the cluster"
    small = {"num_cpus": 1, "object_store_memory": 80_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    said: dict[str, Any] = {}
    try:
        ray.init(address=cluster.address, runtime_env=sent(), log_to_driver=False)
        said["one"] = told(config)
        cluster.add_node(**small)
        said["two"] = told(config)
        said["another specification"] = told(NoiseConfig.parse({**NOISE, "seed": 1}))
        for name in ("bare", "old"):
            path = os.pathsep.join([str(folder / name), os.environ.get("PYTHONPATH", "")])
            node = cluster.add_node(**small, env_vars={"PYTHONPATH": path})
            said[name] = {"node": node.node_id[:8], "told": told(config)}
            cluster.remove_node(node)
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

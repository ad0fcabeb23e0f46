"""Run by the tests in a process of its own: `dagl` on a Ray cluster of two nodes, whose second is killed at work.

    python tests/cluster/on_cluster.py FOLDER MODEL

Prints, as JSON, what the commands wrote and returned, and how many results there were when the node was killed.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path

os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_worker_niceness": "0"}

import ray
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from dagl_cli.cli import app


def main(folder: Path, model: Path) -> None:
    scratch = folder / "scratch"
    scratch.mkdir()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1, env_vars={"TMPDIR": str(scratch)})
    when_killed: list[int] = []

    def kill() -> None:
        while not any(scratch.glob("dagl-*")):  # a worker there has begun a file
            time.sleep(0.01)
        cluster.remove_node(second, allow_graceful=False)
        when_killed.append(len(list(folder.glob("out/*.png"))))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    found = []
    source, elsewhere = folder / "in", f"file://{folder}/elsewhere"
    for arguments in (
        [str(source), "-o", str(folder / "out"), "--ray", cluster.address],
        [f"file://{source}", "-o", elsewhere, "--ray", cluster.address],
    ):
        flags = ["--sigma", "25", "--model", str(model), "--device", "cpu", "--precision", "fp32", "--json"]
        result = CliRunner().invoke(app, ["denoise", *arguments, *flags])
        found.append({"code": result.exit_code, "report": json.loads(result.stdout), "stderr": result.stderr})
    cluster.shutdown()
    print(json.dumps({"commands": found, "when_killed": when_killed, "connected": ray.is_initialized()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))

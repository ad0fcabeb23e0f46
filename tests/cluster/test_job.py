"""A folder on a real Ray cluster of two nodes on this machine, one of which is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from helpers import ROOT, dagl, refused, saved, tiny

from dagl_cli.cluster.job import placed
from dagl_cli.config import Options
from dagl_cli.errors import UsageError

pytestmark = pytest.mark.usefixtures("one_thread", "here")

FILES = 20


def pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(FILES):
        levels = np.random.default_rng(number).normal(100, 25, (200, 300, 3))
        PIL.Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02} ñ.png")
    (folder / "broken.png").write_bytes(b"hello")
    os.rename(folder / "01 ñ.png", folder / "01 is a PNG.jpg")


def test_a_folder_on_a_cluster_that_loses_a_machine(tmp_path: Path) -> None:
    """The results are those of one process, bit for bit; on the machine that is left, and behind a URI."""
    model = saved(tmp_path / "toy.safetensors", tiny("denoise", 3, 0.1))
    pictures(tmp_path / "in")
    flags = ["--sigma", 25, "--model", model, "--device", "cpu", "--precision", "fp32", "--json"]
    alone = json.loads(dagl("denoise", "in", "-o", "alone", *flags, code=3)[0])
    script = ROOT / "tests/cluster/on_cluster.py"
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, str(script), str(tmp_path), str(model)]
    found = json.loads(subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE).stdout)
    expected = {path.name: path.read_bytes() for path in Path("alone").iterdir()}
    assert len(expected) == FILES
    assert found["when_killed"]
    assert found["when_killed"][0] < FILES
    for ran, folder, prefix in zip(found["commands"], ("out", "elsewhere"), ("", "file://")):
        assert ran["code"] == 3, ran["stderr"]
        assert {path.name: path.read_bytes() for path in Path(folder).iterdir()} == expected
        report = ran["report"]
        assert report["counts"] == alone["counts"] == {"restored": FILES, "failed": 1}
        for row, same in zip(report["files"], alone["files"]):
            assert row["input"] == f"{prefix}{tmp_path}/{same['input']}"
            assert [row[key] for key in ("status", "model", "sigma")] == [same[k] for k in ("status", "model", "sigma")]
            assert (row["message"] or "") == (same["message"] or "").replace("in/", f"{prefix}{tmp_path}/in/")
        assert ran["stderr"].count("Error: ") == 1
        assert len(ran["stderr"].splitlines()) == FILES + 1, ran["stderr"]  # a line each, and none of Ray's
    assert not found["connected"]


def test_a_cluster_that_is_none(tmp_path: Path) -> None:
    pictures(tmp_path / "in")
    for address in ("127.0.0.1:1", "127.0.0.1:99999"):
        message = refused("denoise", "in", "-o", "out", "--ray", address, code=1)
        assert message.startswith(f"Error: --ray {address} does not answer: ")
    assert "is no address of a Ray cluster" in refused("denoise", "in", "-o", "out", "--ray=somewhere")
    for arguments in (("-", "out.png", "--ray"), ("--ray", "in/broken.png", "-")):
        assert "--ray is for files and folders" in refused("denoise", *arguments)
    assert "s3://bucket/in is not on this machine: --ray" in refused("denoise", "s3://bucket/in", "-o", "out")
    assert "is no file system that dagl knows" in refused("denoise", "ftp2://host/in", "-o", "out", "--ray")
    dagl("denoise", "in/00 ñ.png", "-o", "out", "--sigma", 25)
    assert "1 file" not in dagl("denoise", "in/00 ñ.png", "-o", "out", "--sigma", 25, "--ray", "127.0.0.1:1")[1]


class TwoNodes:
    """What `placed` asks of Ray."""

    def __init__(self, *resources: dict[str, float]) -> None:
        self.resources = resources

    def nodes(self) -> list[dict[str, object]]:
        gone = {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}
        return [gone, *({"Alive": True, "Resources": each} for each in self.resources)]


def test_an_actor_has_a_gpu_or_some_cpus() -> None:
    cpus, gpus = TwoNodes({"CPU": 8.0}, {"CPU": 3.0}), TwoNodes({"CPU": 8.0, "GPU": 2.0}, {"CPU": 8.0, "GPU": 1.0})
    assert placed(cpus, Options()) == (Options(device="cpu"), {"num_cpus": 2}, 5)
    assert placed(TwoNodes({"CPU": 1.0}), Options()) == (Options(device="cpu"), {"num_cpus": 1}, 1)
    assert placed(gpus, Options(precision="fp32")) == (Options(device="cuda", precision="fp32"), {"num_gpus": 1}, 3)
    assert placed(gpus, Options(device="cpu")) == (Options(device="cpu"), {"num_cpus": 2}, 8)
    with pytest.raises(UsageError, match="`device` cuda: the Ray cluster has no GPU"):
        placed(cpus, Options(device="cuda"))
    with pytest.raises(UsageError, match="Ray deals the GPUs out"):
        placed(gpus, Options(device="cuda:1"))

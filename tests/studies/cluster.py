"""What `--ray` does beyond the tests (not a test: `python tests/studies/cluster.py --help`).

    python tests/studies/cluster.py poison     a file that kills every worker which opens it: the others are done
    python tests/studies/cluster.py bucket     s3://, at a local server (pip install 'moto[server]')

Both start a cluster on this machine, print what `dagl` says, and end with an error if the results are not those of one
process.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import PIL.Image

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers import ROOT, saved, tiny

DEADLY = """
import os, signal
from dagl_cli import images
read = images.read
def deadly(source, *arguments, **more):
    if "poison" in str(source) and os.environ.get("RAY_JOB_ID") is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(source, *arguments, **more)
images.read = deadly
"""
"""What every process runs when it starts."""


def pictures(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        levels = np.random.default_rng(number).normal(100, 25, (200, 300, 3))
        PIL.Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")


def dagl(*arguments: object, **environment: str) -> int:
    """Runs `dagl denoise`. Returns its exit code."""
    path = os.pathsep.join(filter(None, [environment.pop("PYTHONPATH", ""), str(ROOT), os.environ.get("PYTHONPATH")]))
    command = [
        sys.executable,
        "-m",
        "dagl_cli",
        "denoise",
        "--sigma",
        "25",
        "--precision",
        "fp32",
        *map(str, arguments),
    ]
    return subprocess.run(command, env=os.environ | environment | {"PYTHONPATH": path}, check=False).returncode


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def poison(folder: Path) -> None:
    model = saved(folder / "toy.safetensors", tiny("denoise", 3, 0.1))
    pictures(folder / "in", 12)
    assert dagl(folder / "in", "-o", folder / "alone", "--model", model, "-q") == 0
    (folder / "in/05.png").rename(folder / "in/poison.png")
    (folder / "sitecustomize.py").write_text(DEADLY)
    code = dagl(folder / "in", "-o", folder / "out", "--model", model, "--ray", "local", PYTHONPATH=str(folder))
    expected = contents(folder / "alone")
    del expected["05.png"]
    assert (code, contents(folder / "out")) == (3, expected), f"exit code {code}"


def bucket(folder: Path) -> None:
    from moto.server import ThreadedMotoServer  # type: ignore[import-not-found]

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "test")
    os.environ |= keys | {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_DEFAULT_REGION": "us-east-1"}
    os.environ |= {"AWS_EC2_METADATA_DISABLED": "true", "AWS_REGION": "us-east-1"}
    from pyarrow import fs

    store = fs.S3FileSystem(endpoint_override=f"http://{host}:{port}", region="us-east-1", allow_bucket_creation=True)
    store.create_dir("photos")
    pictures(folder / "in", 6)
    model = saved(folder / "toy.safetensors", tiny("denoise", 3, 0.1))
    fs.copy_files(str(folder / "in"), "photos/new", destination_filesystem=store)
    assert dagl(folder / "in", "-o", folder / "alone", "--model", model, "-q") == 0
    for expected in ("restored", "skipped"):
        print(f"--- {expected} ---", flush=True)
        assert dagl("s3://photos/new", "-o", "s3://photos/clean", "--model", model, "--ray", "local") == 0
    (folder / "out").mkdir()
    fs.copy_files("photos/clean", str(folder / "out"), source_filesystem=store)
    assert contents(folder / "out") == contents(folder / "alone")
    assert dagl("s3://photos/nothing", "-o", "s3://photos/clean", "--model", model, "--ray", "local") == 1
    server.stop()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["poison", "bucket"])
    with tempfile.TemporaryDirectory() as folder:
        {"poison": poison, "bucket": bucket}[parser.parse_args().what](Path(folder))

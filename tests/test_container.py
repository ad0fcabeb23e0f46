"""The container: what its recipe says, and that what it starts needs no root, no network and nothing to write."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import skips
from helpers import ROOT, picture
from PIL import Image

Instructions = list[tuple[str, str]]


def stages() -> dict[str, Instructions]:
    """Name -> instructions, in the order of the file; ARGs before the first FROM are stage ''."""
    text = (ROOT / "Containerfile").read_text().replace("\\\n", " ")
    found: dict[str, Instructions] = {"": []}
    for line in text.splitlines():
        word, _, rest = line.strip().partition(" ")
        if not word or word.startswith("#"):
            continue
        if word == "FROM":
            found[rest.split(" AS ")[1]] = []
        found[[*found][-1]].append((word, rest))
    return found


def whole(target: str) -> Instructions:
    """Of a stage, with those of the stages that it is made from."""
    found = stages()
    base = found[target][0][1].split(" AS ")[0]
    return [*(whole(base) if base in found else []), *found[target]]


def last(target: str, word: str) -> str:
    return [rest for name, rest in whole(target) if name == word][-1]


def environment(target: str) -> dict[str, str]:
    pairs = (pair.split("=", 1) for name, rest in whole(target) if name == "ENV" for pair in rest.split())
    return dict(pairs)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_the_recipe(target: str) -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last(target, "USER")), "not root, by number"
    assert json.loads(last(target, "ENTRYPOINT")) == ["dagl"]
    assert last(target, "HEALTHCHECK").endswith('CMD ["dagl", "weights", "verify"]')
    assert environment(target)["PATH"].startswith("/opt/dagl/bin:")
    assert last(target, "COPY") == f"--from=build-{target} /opt/dagl /opt/dagl"
    copied = [rest.split()[:-1] for name, rest in whole(f"build-{target}") if name == "COPY"]
    sources = {source for names in copied for source in names}
    assert {"dagl_cli", "weights", "pyproject.toml", "hatch_build.py", "constraints.txt"} <= sources
    assert all((ROOT / source).exists() for source in sources)
    (installed,) = (rest for name, rest in whole(f"build-{target}") if name == "RUN" and "pip install" in rest)
    assert "-c constraints.txt '.[raw]'" in installed


def test_the_recipe_as_a_whole() -> None:
    """What linters of such files ask for."""
    everything = [instruction for instructions in stages().values() for instruction in instructions]
    assert {name for name, _ in everything} <= {
        "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "HEALTHCHECK", "RUN", "USER", "WORKDIR",
    }  # fmt: skip
    (image,) = (rest for name, rest in stages()[""])
    assert re.fullmatch(r"PYTHON=[\w./-]+:3\.\d+-slim-\w+", image), "a version, not what is newest"
    for name, rest in everything:
        if name == "RUN":
            assert subprocess.run(["sh", "-n", "-c", rest], check=False).returncode == 0
            assert "sudo" not in rest
            assert "apt-get install" not in rest or ("--no-install-recommends" in rest and "rm -rf" in rest)
        if name == "WORKDIR":
            assert rest.startswith("/")


INSIDE = """
set -e
mount --make-rprivate /
mount --bind / "$ROOT"
mount --bind "$SOURCE" "$ROOT/opt"
mount --bind "$PYTHON" "$ROOT$PYTHON"
mount --bind "$BASE" "$ROOT$BASE"
mount --rbind /dev "$ROOT/dev"
mount -t proc proc "$ROOT/proc"
for place in "$ROOT" "$ROOT/opt" "$ROOT$PYTHON" "$ROOT$BASE"; do mount -o remount,bind,ro "$place"; done
mount --bind "$DATA" "$ROOT/mnt"
exec chroot "$ROOT" setpriv --reuid=10001 --regid=10001 --clear-groups --inh-caps=-all,+dac_read_search \\
    --ambient-caps=+dac_read_search --no-new-privs env -i $VARIABLES sh -c "$COMMAND"
"""
"""A root file system that nobody can write to, without a network; the checkout is /opt, the user's folder /mnt."""


@pytest.mark.skipif(not skips.may_mount(), reason="bind mounts are not allowed here")
def test_what_it_starts_needs_no_root_no_network_and_nothing_to_write(tmp_path: Path) -> None:
    data, root = tmp_path / "data", tmp_path / "root"
    for folder in (data, root):
        folder.mkdir()
    noisy = np.random.default_rng(0).normal(128, 25, (40, 40)).clip(0, 255).astype(np.uint8)
    Image.fromarray(noisy).save(data / "in.png")
    os.chown(data, 10001, 10001)
    inside = environment("cpu") | {
        "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": "/opt", "HOME": "/mnt",
        "XDG_CACHE_HOME": "/mnt/.cache",
    }  # fmt: skip
    (health,) = re.findall(r"CMD (\[.*\])", last("cpu", "HEALTHCHECK"))
    dagl = "python -m dagl_cli"
    command = " && ".join([
        "id -u", "! touch /opt/x 2>/dev/null", "! touch /tmp/x 2>/dev/null",
        " ".join([dagl, *json.loads(health)[1:]]), f"cd /mnt && {dagl} denoise --sigma 25 in.png out.png",
    ])  # fmt: skip
    env = os.environ | {
        "ROOT": str(root), "SOURCE": str(ROOT), "PYTHON": sys.prefix, "BASE": sys.base_prefix, "DATA": str(data),
        "COMMAND": command, "VARIABLES": " ".join(f"{key}={value}" for key, value in inside.items()),
    }  # fmt: skip
    result = subprocess.run(
        ["unshare", "--mount", "--net", "sh", "-c", INSIDE], env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split()[0] == "10001"
    assert "denoise-gray: intact" in result.stderr
    with Image.open(data / "out.png") as restored:
        assert np.asarray(restored).std() < noisy.std() / 2
    assert (data / "out.png").stat().st_uid == 10001


ENGINE = skips.container_engine()


@pytest.mark.skipif(ENGINE is None, reason="needs docker or podman")
def test_the_image_is_built_and_runs(tmp_path: Path) -> None:
    assert ENGINE is not None
    build = [ENGINE, "build", "-q", "--target", "cpu", "-t", "dagl-test", "-f", "Containerfile", "."]
    subprocess.run(build, cwd=ROOT, check=True)
    picture(tmp_path / "in.png", size=(40, 40))
    tmp_path.chmod(0o777)
    run = [ENGINE, "run", "--rm", "--read-only", "--network", "none", "-v", f"{tmp_path}:/data", "dagl-test"]
    subprocess.run([*run, "weights", "verify"], check=True)
    subprocess.run([*run, "denoise", "--sigma", "25", "in.png", "out.png"], check=True)
    assert (tmp_path / "out.png").stat().st_size

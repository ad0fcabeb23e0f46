"""Kills at random moments: no input, no result is damaged, and all results are made in the end.

    python tests/studies/kills.py --kills 200

In every round two runs of `dagl denoise` share a folder; one of them or both are killed (SIGKILL) after a random time.
Then every input must be what it was, and every result whole: the bytes of an undisturbed run. In half of the turns
there are older results, of another model, that are replaced (--overwrite): then each is the older or the newer one.
Once a last run has come to its end undisturbed, every result must be there and nothing else, no claim and no part of
a file. The runs are forked from this process, which has torch loaded: so a kill costs a fraction of a second.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers import saved, tiny

from dagl_cli.cli import app
from dagl_cli.restoring.file import FileRestorer

PICTURES, SIDE = 20, 64


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())} if folder.exists() else {}


def inputs(folder: Path) -> None:
    folder.mkdir()
    noise = np.random.default_rng(0)
    for number in range(PICTURES):
        levels = 128 + noise.normal(0, 25, (SIDE, SIDE))
        PIL.Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(folder / f"{number:02}.png")


def fork(source: Path, target: Path, model: Path, overwrite: bool) -> int:
    """Starts `dagl denoise` in a process of its own. Returns its number."""
    if child := os.fork():
        return child
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    code = 70
    try:
        flags = ["--overwrite"] if overwrite else []
        settings = ["--sigma", "25", "--model", str(model), "--device", "cpu", "--quiet"]
        app(["denoise", str(source), "-o", str(target), *settings, *flags])
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """Waits for a process: its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check(target: Path, allowed: list[dict[str, bytes]], whole: bool) -> None:
    """Raises AssertionError for a result that is none of the allowed ones; if `whole`, for a missing or further one."""
    found = contents(target)
    for name, data in found.items():
        hidden = name.startswith(".dagl-")
        assert (hidden and not whole) or any(data == one.get(name) for one in allowed), f"{name} is damaged"
    assert not whole or found.keys() == allowed[-1].keys(), f"{sorted(found)} are there"


def campaign(kills: int, seed: int, folder: Path) -> Counter[str]:
    """Returns what happened how often. Raises AssertionError for a loss."""
    source, target = folder / "in", folder / "out"
    inputs(source)
    before = contents(source)
    models = [saved(folder / f"{shift}.safetensors", tiny("denoise", 1, shift / 255)) for shift in (10, 20)]
    FileRestorer("denoise", model=str(models[0]), sigma=25)(source / "00.png", folder / "out.png")  # all is imported
    results = []
    for model in models:
        start = time.monotonic()
        assert ended(fork(source, folder / model.stem, model, False)) == 0
        length = time.monotonic() - start
        results.append(contents(folder / model.stem))
        assert results[-1].keys() == before.keys()
    rng, happened, turn = random.Random(seed), Counter[str](), 0
    while happened["kills"] < kills:
        old, new = turn % 2, 1 - turn % 2
        overwrite = turn % 4 >= 2
        if not overwrite:
            for path in target.iterdir() if target.exists() else ():
                path.unlink()
        allowed = [results[old], results[new]] if overwrite else [results[new]]
        for _ in range(rng.randint(1, 5)):
            children = [fork(source, target, models[new], overwrite) for _ in range(2)]
            both = rng.random() < 0.5
            for child in children[: 1 + both]:
                time.sleep(rng.uniform(0, 0.6 * length))
                os.kill(child, signal.SIGKILL)
            codes = [ended(child) for child in children]
            happened["kills"] += codes.count(-signal.SIGKILL)
            happened["runs beside a kill"] += not both
            assert both or codes[1] == 0, f"the other run ended with {codes[1]}"
            assert contents(source) == before, "an input is damaged"
            check(target, allowed, whole=False)
        assert ended(fork(source, target, models[new], overwrite)) == 0
        check(target, [results[new]], whole=True)
        happened["turns"] += 1
        turn += 1
    return happened


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)  # a forked process has no other
    with tempfile.TemporaryDirectory() as folder:
        happened = campaign(chosen.kills, chosen.seed, Path(folder))
    print(", ".join(f"{count} {what}" for what, count in happened.items()) + ": no input and no result damaged")


if __name__ == "__main__":
    main()

"""Damaged weight files, checkpoints and manifests: every one is taken whole or refused in one line.

    python tests/studies/fuzz.py --count 3000

prints, for each kind, how many were refused and how many taken, the slowest in seconds and the process's most memory.
Exits with 1 when one of them ends in another exception, gives other numbers than were written, takes more than 10
seconds or 2 GB.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from helpers import saved, tiny

from dagl_cli.errors import DaglError
from dagl_cli.measuring.measure import peak_of_process
from dagl_cli.store import card, manifest, release, weights

SECONDS, BYTES = 10, 2 * 10**9
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 7, 2**31, 2**63, 10**30, 1.5, float("nan"), float("inf"), "", "x", "\x1b[31m", "\u202e",
    [], {}, [[]] * 3, [1, 2], {"a": {}}, "../../x", "a|b\nc", "[/red]", 1024, "F32", "I64", [1024] * 6, [2**40, 2**40],
)  # fmt: skip
"""What a field is given in place of its own."""


def damaged(content: bytes, chance: random.Random) -> bytes:
    """Some bits turned, a part cut out, doubled, zeroed or replaced, or the end missing."""
    data = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        at = chance.randrange(len(data)) if chance.random() < 0.5 else chance.randrange(min(len(data), 3000))
        size = chance.choice((1, 2, 8, 64, 1000))
        match chance.randrange(6):
            case 0 | 1:
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = data[at : at + size]
            case 4:
                data[at : at + size] = bytes(len(data[at : at + size]))
            case _:
                data[at : at + size] = chance.randbytes(len(data[at : at + size]))
        if not data:
            return b""
    return bytes(data if chance.random() < 0.8 else data[: chance.randrange(len(data))])


def changed(value: Any, chance: random.Random) -> Any:
    """JSON with one of its values, at any depth, replaced, removed, renamed or nested."""
    if isinstance(value, dict | list) and value and chance.random() < 0.85:
        keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = chance.choice(keys)
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        match chance.randrange(8):
            case 0:
                del copy[key]
            case 1 if isinstance(copy, dict):
                copy[chance.choice(("x", "__metadata__", "\x1b", "conv_in.weight"))] = copy.pop(key)
            case _:
                copy[key] = changed(copy[key], chance)
        return copy
    if chance.random() < 0.03:
        for _ in range(chance.choice((10, 100, 400))):
            value = [value]
        return value
    return chance.choice(VALUES)


def of_weights(whole: bytes, chance: random.Random) -> bytes:
    """A safetensors file: damaged, or with another header, of its own, its configuration or its info."""
    if chance.random() < 0.4:
        return damaged(whole, chance)
    start = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:start])
    metadata = header["__metadata__"]
    if chance.random() < 0.5:  # so that it is not refused for its digest alone
        metadata.pop(weights.OWN_DIGEST, None)
    part = chance.choice(("config", "info", None))
    for _ in range(chance.choice((1, 1, 3))):
        if part and isinstance(header.get("__metadata__"), dict) and isinstance(metadata.get(part), str):
            metadata[part] = json.dumps(changed(json.loads(metadata[part]), chance))
        elif isinstance(header, dict):
            header = changed(header, chance)
    text = json.dumps(header).encode()
    data = whole[start:]
    if chance.random() < 0.3:
        data = chance.choice((b"", data[:100], data + bytes(1000), b"\xff" * len(data), bytes(len(data))))
    return len(text).to_bytes(8, "little") + text + data


def main(count: int, seed: int = 0) -> bool:
    """Whether all went well; prints a line for each kind."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny(shift=0.25)
        path = saved(folder / "denoise-gray.safetensors", model, step=5, minutes=2.5, licence="MIT", training={"a": 1})
        card.publish(folder)
        whole, said = path.read_bytes(), (folder / manifest.MANIFEST).read_bytes()
        buffers = [io.BytesIO() for _ in range(2)]
        state = {key: value.clone() for key, value in model.state_dict().items()}
        for buffer, new in zip(buffers, (True, False)):
            torch.save(state, buffer, _use_new_zipfile_serialization=new)
        checkpoints = [buffer.getvalue() for buffer in buffers]
        target = folder / "fuzz.safetensors"

        def load(content: bytes) -> bool:
            target.write_bytes(content)
            found = weights.load(target)[0].state_dict()
            card.card(card.manifest([target]))
            return not digested(content) or all(torch.equal(found[key], state[key]) for key in state)

        def digested(content: bytes) -> bool:
            return weights.OWN_DIGEST.encode() in content[:20_000]

        def checkpoint(content: bytes) -> bool:
            found = release.state_dict(content, "fuzz.pt")
            return all(bool(value.isfinite().all()) for value in found.values())

        def read(content: bytes) -> bool:
            (folder / "m").mkdir(exist_ok=True)
            (folder / "m/manifest.json").write_bytes(content)
            path = folder / "m/denoise-gray.safetensors"
            path.write_bytes(whole)
            made = card.publish(folder / "m")
            again = manifest.read(folder / "m/manifest.json")
            return again == made and card.card(again).isprintable() is False

        def of_manifest(chance: random.Random) -> bytes:
            if chance.random() < 0.3:
                return damaged(said, chance)
            return json.dumps(changed(json.loads(said), chance)).encode()

        kinds: dict[str, tuple[Callable[[random.Random], bytes], Callable[[bytes], bool]]] = {
            "weight files": (lambda chance: of_weights(whole, chance), load),
            "checkpoints": (lambda chance: damaged(chance.choice(checkpoints), chance), checkpoint),
            "manifests": (of_manifest, read),
        }
        well = [campaign(kind, count, seed, *functions) for kind, functions in kinds.items()]
        return all(well)


def campaign(
    kind: str, count: int, seed: int, make: Callable[[random.Random], bytes], take: Callable[[bytes], bool]
) -> bool:
    outcomes: Counter[str] = Counter()
    slowest = 0.0
    for i in range(count):
        content = make(random.Random(f"{kind} {seed} {i}"))
        start = time.monotonic()
        try:
            outcome = "taken" if take(content) else "WRONG"
        except DaglError as error:
            outcome = "refused" if "\n" not in str(error) else "LINES"
        except Exception as error:
            outcome = f"TRACEBACK {type(error).__name__}: {error}"[:300]
        slowest = max(slowest, time.monotonic() - start)
        outcomes[outcome] += 1
        if not outcome.islower():
            print(f"{kind} {seed} {i}: {outcome}")
    most = 1e6 * (peak_of_process() or 0)
    print(
        f"{kind}: {count} damaged, {dict(outcomes)}, slowest {slowest:.2f} s, at most {most / 1e6:.0f} MB", flush=True
    )
    return set(outcomes) <= {"taken", "refused"} and slowest < SECONDS and most < BYTES


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.exit(not main(arguments.count, arguments.seed))

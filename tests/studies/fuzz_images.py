"""Damaged files of every format, read and, where that succeeds, written again: what becomes of them.

    python tests/studies/fuzz_images.py [--files 10000] [--seed 0]

A file ends as 'read' or 'refused' (one line), or as a fault: 'traceback' (any exception but ImageError, or an error of
several lines), 'hang' (over 10 s), 'memory' (over 2 GB), 'crash' (the process died) or 'noise' (something was printed).
The exit code is 1 if there was a fault; its file is kept in the folder --keep.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import random
import struct
import sys
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import imagecodecs
import numpy as np
import PIL.Image
import pillow_heif
import tifffile

from dagl_cli.errors import ImageError
from dagl_cli.images import FORMATS, Image, read, srgb_profile, write
from dagl_cli.images.tone import tone_of
from dagl_cli.measuring.measure import peak_of_process

SECONDS, MEGABYTES = 10, 2_000
REFUSALS = ("bits", "float samples", "not finite", "alpha", "too long", "at most")
"""What a format cannot hold."""
LARGE = 200_000
"""Samples; larger pictures are only read, since to write them takes time whatever they are."""
LEVELS = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
XMP = b'<x xmlns:h="http://ns.adobe.com/hdr-gain-map/1.0/" h:Version="1"/>'
NUMBERS = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\1\0",
    b"\0\0\x40\0",
    b"\1\0\0\0",
)


def seeds() -> dict[str, list[bytes]]:
    """Intact files: of every format that dagl writes, with all that it keeps, and of kinds that only others write."""
    exif = PIL.Image.Exif()
    exif[271], exif[274], exif[315] = "Maker", 6, "Someone"
    exif.get_ifd(34665)[33434] = 0.004
    exif.get_ifd(34853)[1] = "N"
    block = exif.tobytes()[6:]
    found: dict[str, list[bytes]] = {name: [] for name in FORMATS}
    for name, format in FORMATS.items():
        for depth in format.depths if format.encode else ():
            for channels in (1, 3):
                pixels = LEVELS[..., :channels].astype(np.float32) / 255
                alpha = LEVELS[..., 0].astype(np.uint8 if depth == 8 else np.uint16) if format.alpha else None
                for mask in {id(a): a for a in (None, alpha)}.values():
                    stream = io.BytesIO()
                    write(Image(pixels, mask, depth, exif=block, xmp=XMP, icc=srgb_profile()), stream, format=name)
                    found[name].append(stream.getvalue())
        for depth in format.floats:
            values = (LEVELS / 60 - 0.1).astype(f"float{depth}")
            values[1, 2], values[3, 4] = 60000, np.nan if name != "HDR" else 0
            tone = tone_of(values, format.light)
            stream = io.BytesIO()
            write(Image(tone.encode(values), depth=depth, tone=tone), stream, format=name)
            found[name].append(stream.getvalue())
    stream = io.BytesIO()
    pillow_heif.from_bytes("RGB", (56, 40), LEVELS.tobytes()).save(stream, exif=b"Exif\0\0" + block)
    found["HEIF"] = [stream.getvalue()]
    picture = PIL.Image.fromarray(LEVELS)
    for mode, name, options in (
        ("P", "PNG", {"bits": 4}), ("1", "PNG", {}), ("P", "PNG", {"transparency": 3}),
        ("RGB", "JPEG", {"progressive": True}),
        ("L", "JPEG", {"exif": b"Exif\0\0" + block}), ("CMYK", "JPEG", {}), ("P", "BMP", {}), ("1", "BMP", {}),
        ("RGBA", "BMP", {}), ("RGB", "WEBP", {"quality": 50}), ("1", "TIFF", {"compression": "group4"}),
        ("P", "TIFF", {}), ("RGB", "TIFF", {"compression": "jpeg"}),
    ):  # fmt: skip
        stream = io.BytesIO()
        picture.convert(mode).save(stream, name, **options)
        found[name].append(stream.getvalue())
    for more in (
        {"compression": "jpeg2000"}, {"compression": "webp"}, {"compression": "jpegxl"}, {"compression": "lerc"},
        {"compression": "lzma"}, {"compression": "zstd", "tile": (16, 16)}, {"bigtiff": True, "compression": "lzw"},
        {"planarconfig": "separate", "byteorder": ">"}, {"rowsperstrip": 4},
    ):  # fmt: skip
        stream = io.BytesIO()
        levels = np.moveaxis(LEVELS, -1, 0) if "planarconfig" in more else LEVELS
        tifffile.imwrite(stream, levels, photometric="rgb", **more)
        found["TIFF"].append(stream.getvalue())
    found["JPEG"].append(bytes(imagecodecs.jpegls_encode(LEVELS)))
    return found


def flip_bits(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8, 32))):
        data[place(data, rng)] ^= 1 << rng.randrange(8)


def set_numbers(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2))):
        start = place(data, rng)
        data[start : start + rng.choice((2, 4))] = rng.choice(NUMBERS)[: rng.choice((2, 4))]


def truncate(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def swap(data: bytearray, rng: random.Random) -> None:
    size = rng.randrange(1, max(2, len(data) // 4))
    a, b = rng.randrange(len(data)), rng.randrange(len(data))
    data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def cut_out(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    del data[start : start + rng.randrange(1, 64)]


def repeat(data: bytearray, rng: random.Random) -> None:
    start, size = rng.randrange(len(data)), rng.randrange(1, 256)
    data[start:start] = data[start : start + size] * rng.choice((1, 2, 50))


DAMAGES: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip_bits, flip_bits, set_numbers, set_numbers, truncate, swap, cut_out, repeat,
)  # fmt: skip


def place(data: bytearray, rng: random.Random) -> int:
    """Mostly in the first bytes, where the headers are."""
    return rng.randrange(min(len(data), rng.choice((64, 512, len(data)))))


def with_checksums(data: bytes) -> bytes:
    """A damaged PNG whose chunks are right again, so that what is in them is looked at."""
    done, position = bytearray(data[:8]), 8
    while position + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        body = data[position + 4 : position + 8 + length]
        done += data[position : position + 4] + body + struct.pack(">I", zlib.crc32(body))
        position += 12 + length
    return bytes(done)


def damaged(count: int, seed: int) -> Iterator[tuple[str, bytes]]:
    """(format, a file) `count` times; the same for the same seed."""
    rng, intact = random.Random(seed), seeds()
    for _ in range(count):
        name = rng.choice(sorted(intact))
        data = bytearray(rng.choice(intact[name]))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if data:
                rng.choice(DAMAGES)(data, rng)
        yield name, with_checksums(bytes(data)) if name == "PNG" and rng.random() < 0.7 else bytes(data)


def attempt(data: bytes) -> str:
    """What becomes of one file in this process."""
    try:
        image = read(data)
    except ImageError as error:
        return "traceback" if "\n" in str(error) else "refused"
    except Exception:
        return "traceback"
    for name in FORMATS if image.pixels.size < LARGE else ():
        try:
            write(image, io.BytesIO(), format=name)
        except ImageError as error:
            if "\n" in str(error) or not any(w in str(error) for w in REFUSALS):
                return f"traceback in writing {name}: {error}"
        except Exception as error:
            return f"traceback in writing {name}: {error!r}"
    return "read"


def work(pipe: Connection, log: str) -> None:
    """Attempts what comes through the pipe. The process's own outputs go to the file `log`."""
    number = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(number, 1)
    os.dup2(number, 2)
    printed = 0
    while (data := pipe.recv()) is not None:
        outcome = attempt(data)
        if (peak_of_process() or 0) > MEGABYTES:
            outcome = "memory"
        if os.fstat(number).st_size > printed:
            printed, outcome = os.fstat(number).st_size, "noise"
        pipe.send(outcome)


def campaign(count: int, seed: int, keep: Path | None) -> tuple[Counter[tuple[str, str]], float]:
    """(format, outcome) -> files, and the longest time one took in seconds."""
    outcomes: Counter[tuple[str, str]] = Counter()
    longest, process = 0.0, None
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, data) in enumerate(damaged(count, seed)):
            if process is None:
                ours, theirs = context.Pipe()
                process = context.Process(target=work, args=(theirs, os.path.join(folder, "log")), daemon=True)
                process.start()
                theirs.close()
            start = time.perf_counter()
            ours.send(data)
            try:
                outcome = ours.recv() if ours.poll(SECONDS) else "hang"
            except EOFError:
                outcome = "crash"
            longest = max(longest, time.perf_counter() - start)
            outcomes[name, outcome.split(":")[0]] += 1
            if outcome not in ("read", "refused"):
                print(f"{outcome}: file {number} of seed {seed}, {name}", flush=True)
                if keep:
                    (keep / f"{seed}-{number}.{name.lower()}").write_bytes(data)
            if outcome in ("hang", "crash", "memory"):
                process.kill()
                process.join()
                process = None
        if process:
            ours.send(None)
            process.join()
    return outcomes, longest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for the files that cause a fault")
    options = parser.parse_args()
    outcomes, longest = campaign(options.files, options.seed, options.keep)
    kinds = sorted({outcome for _, outcome in outcomes}, key=("read", "refused").__contains__, reverse=True)
    print("".join(f"{title:>12}" for title in ("", *kinds)))
    for name in sorted({name for name, _ in outcomes}):
        print(f"{name:>12}" + "".join(f"{outcomes[name, kind]:12}" for kind in kinds))
    faults = sum(n for (_, outcome), n in outcomes.items() if outcome not in ("read", "refused"))
    print(f"{sum(outcomes.values()):,} files, {faults} faults, at most {longest:.1f} s for one")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())

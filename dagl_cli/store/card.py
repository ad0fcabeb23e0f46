"""What is published of weight files: the manifest and the card beside them, and a folder for the Hub."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock

from .. import __version__
from ..config import TASKS, ModelConfig, variant_of
from ..errors import DaglError, UsageError, WeightsError, plain
from ..files import replacing, write
from . import hub, weights
from .hub import NAME
from .manifest import MANIFEST, Entry, Manifest, Result, beside, parsed, read, said, write_json

CARD = "README.md"
CONFIG = "config.json"
HUB_LICENCES = ("mit", "apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0")
"""What the Hub knows of the licences that weights have; another one is `other` there, with a name."""

OPEN = r"MIT|CC0?|Apache|BSD|[AL]?GPL|MPL|ISC|(Open)?RAIL|Unlicense|public domain"
"""How a licence begins that lets weights be passed on."""


def entry(path: Path, about: Manifest, rows: Iterable[Result] = ()) -> Entry:
    """What a manifest says of a weight file.

    about: the manifest so far; its `licence` and `training_data` are those of a new file that names none itself, and
    what its entry of the file says is kept as long as the SHA-256 is the same. rows: of `dagl benchmark --json`; those
    of this very file are taken, by SHA-256, or by name where a row has none. Raises WeightsError.
    """
    config, info, parameters = weights.describe(path)
    own, digest = said(info), weights.sha256(path)
    kept = about.files.get(path.name)
    if kept is None or kept.sha256 != digest:
        kept = Entry(digest)
    results = {row.measurement: row for row in kept.results}
    results |= {row.measurement: row.kept() for row in rows if _is_of(row, path.stem, digest)}
    return replace(
        own, sha256=digest, bytes=path.stat().st_size, task=config.task, channels=config.channels,
        network=network(config), variant=variant_of(config), parameters=parameters,
        licence=own.licence or kept.licence or about.licence,
        training_data=own.training_data or kept.training_data or about.training_data,
        runs=own.runs or kept.runs, note=own.note or kept.note,
        results=tuple(sorted(results.values(), key=lambda row: (row.dataset, row.level or 0, row.protocol))),
    )  # fmt: skip


def network(config: ModelConfig) -> str:
    """What has no graph is not called DAGL."""
    return "DAGL" if config.stages and config.heads else "residual, no graph"


def _is_of(row: Result, name: str, digest: str) -> bool:
    if row.image or row.variant or row.method not in (None, "ours"):
        return False
    return digest.startswith(row.sha256) if row.sha256 else name == row.weights


def unused(rows: Sequence[Result], manifest: Manifest) -> int:
    """How many rows are of none of the manifest's files."""
    files = [(Path(name).stem, e.sha256) for name, e in manifest.files.items()]
    return sum(not any(_is_of(row, *file) for file in files) for row in rows)


def read_results(paths: Sequence[Path]) -> list[Result]:
    """The rows of `dagl benchmark --json` outputs. Raises UsageError for another file."""
    rows: list[Result] = []
    for path in paths:
        try:
            content = parsed(path.read_bytes())
            rows += map(Result.from_dict, content["rows"] if isinstance(content, dict) else content)
        except OSError as error:
            raise UsageError(f"`results` {path}: {error.strerror}: give an output of `dagl benchmark --json`") from None
        except (ValueError, KeyError, TypeError):
            raise UsageError(f"`results` {path}: not an output of `dagl benchmark --json`") from None
    for row in rows:
        if row.images < (row.of or 0):
            raise UsageError(
                f"`results`: {row.dataset} with {row.images} of its {row.of} images: measure without `limit`"
            )
    return rows


def manifest(paths: Sequence[Path], previous: Manifest | None = None, rows: Sequence[Result] = ()) -> Manifest:
    """The manifest of weight files.

    previous: the manifest so far. What people wrote in it is kept: `licence`, `training_data` and `training_sets`,
    which hold for every file that comes new, and of each unchanged file these, its `runs` (how it was made, run by
    run), its `note` and its results.
    """
    for path in paths:
        if not re.fullmatch(NAME, path.name):
            raise UsageError(f"{path}: give it a name of letters, digits, spaces and . _ + - alone")
    previous = previous or Manifest()
    return replace(previous, dagl=__version__, files={path.name: entry(path, previous, rows) for path in sorted(paths)})


def publish(folder: Path, rows: Sequence[Result] = ()) -> Manifest:
    """Write `manifest.json` and the card `README.md` of a folder's weight files, from the files and `rows`.

    Returns the manifest. Raises WeightsError when there are no weight files.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise WeightsError(f"{folder}: no weight files (.safetensors) in it")
    made = manifest(paths, beside(paths[0]), rows)
    try:
        write_json(folder / MANIFEST, made.to_dict())
        write(folder / CARD, card(made).encode())
    except OSError as error:
        raise DaglError(f"{folder}: {error.strerror}: make it writable, or make room") from None
    return made


def record(path: Path) -> None:
    """Add one file to the manifest beside it, so that `dagl weights verify` knows it. Raises DaglError."""
    try:
        with FileLock(path.parent / ".lock"):
            made = manifest([path])
            write_json(path.parent / MANIFEST, replace(made, files=beside(path).files | made.files).to_dict())
    except OSError as error:
        raise DaglError(f"{path.parent / MANIFEST}: {error.strerror}: make it writable, or make room") from None


def _line(text: str) -> str:
    """Text from a file as one line of Markdown: its pipes end no cell, its brackets are no links and no HTML."""
    return re.sub(r"([|<>\[\]])", r"\\\1", plain(" ".join(text.split())))


def _code(text: str) -> str:
    """Text from a file as code, in a table too."""
    return f"`{plain(' '.join(text.split())).replace('`', chr(39)).replace('|', chr(92) + '|')}`"


def card(manifest: Manifest) -> str:
    """Markdown: what every file of a manifest is, how it was made, its results and its licence."""
    lines = ["# Weights of dagl", ""]
    lines += [
        "Image restoration with DAGL (Dynamic Attentive Graph Learning, ICCV 2021), and with its residual network",
        "alone. Each file is safetensors with its configuration inside: `dagl denoise --model FILE in.png`, or from a",
        "repository on the Hub `dagl denoise --model hub:OWNER/REPO:FILE in.png`; `dagl weights verify` checks the",
        "SHA-256 below.", "",
        "| file | task | colours | network | parameters | MB | licence |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, e in manifest.files.items():
        lines.append(
            f"| `{name}` | {e.task} | {e.colours} | {_network(e)} | {e.parameters:,} | "
            f"{e.bytes / 1e6:.1f} | {_line(e.licence or 'not stated')} |"
        )
    for title, text in (("Training data", manifest.training_data), ("Licence of the weights", manifest.licence)):
        if text:
            lines += ["", f"**{title}**: {_line(text)}"]
    lines += [
        "", "What is called `DAGL` has its graph attention; what is called `residual, no graph` is the same network "
        "without it, and is not DAGL.",
    ]  # fmt: skip
    for name, e in manifest.files.items():
        lines += ["", *_section(name, e, manifest)]
    lines += ["", "Made by `dagl weights manifest`, from the files and the output of `dagl benchmark --json`."]
    return "\n".join(lines) + "\n"


def _network(e: Entry) -> str:
    return e.network + (f" (`{e.variant}`)" if e.variant else "")


def _section(name: str, e: Entry, manifest: Manifest) -> list[str]:
    lines = [
        f"## `{name}`", "",
        f"{TASKS[e.task].summary[0].upper()}{TASKS[e.task].summary[1:]}; {e.colours}; {_network(e)}; "
        f"{e.parameters:,} parameters. SHA-256 `{e.sha256}`.",
    ]  # fmt: skip
    for title, text, common in (
        ("Licence", e.licence, manifest.licence), ("Training data", e.training_data, manifest.training_data)
    ):  # fmt: skip
        if text != common:
            lines += ["", f"{title}: {_line(text or 'not stated')}."]
    lines += _made(e)
    if e.note:
        lines += ["", _line(e.note)]
    return lines + (_results(e) if e.results else [])


def _made(e: Entry) -> list[str]:
    """How a file was made: its runs, or what it says of its one training, or what it was converted from."""
    t = e.training
    if e.runs:
        rows = [f"| {_line(r.name)} | {_code(r.flags)} | {r.minutes:g} | {r.steps:,} |" for r in e.runs]
        return ["", "| run | flags | minutes | steps |", "|---|---|---|---|", *rows]
    if t.steps is not None:
        told = [
            f"{t.steps:,} steps", f"{t.minutes:g} minutes" if t.minutes is not None else "", t.device or "",
            (t.precision or "").removeprefix("torch."), f"{t.images} images" if t.images is not None else "",
            f"from {t.init_from}" if t.init_from is not None else "",
        ]  # fmt: skip
        lines = ["", f"Trained: {_line(', '.join(part for part in told if part))}."]
        return [*lines, "", _code(t.command)] if t.command else lines
    return ["", f"Converted from {_line(t.source)}."] if t.source else []


def _results(e: Entry) -> list[str]:
    levels = {"denoise": "σ", "real": "σ", "dejpeg": "quality"}.get(e.task, "level")
    lines = [
        "",
        f"| set | {levels} | images | with | input | **this file** | SSIM | paper's DAGL | its best other |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in e.results:
        paper, best = _published(row)
        level = "" if row.level is None else f"{row.level:g}"
        lines.append(
            f"| {_line(row.dataset)} | {level} | {row.images} | {_line(_with(row))} | {row.input_psnr:.2f} | "
            f"**{row.psnr:.2f}** | {row.ssim:.4f} | {paper} | {_line(best)} |"
        )
    how = " / ".join(dict.fromkeys(map(_how, e.results)))
    return [*lines, "", f"PSNR in dB, means over the images. {_line(how)}."]


def _published(row: Result) -> tuple[str, str]:
    """The paper's DAGL and its best competitor, as text; empty where the paper has no figure."""
    others = {name: psnr for name, (psnr, _) in row.published.items() if psnr is not None}
    paper = others.pop("DAGL", None)
    best = max(others, key=lambda name: others[name], default=None)
    return "" if paper is None else f"{paper:.2f}", "" if best is None else f"{others[best]:.2f} ({best})"


def _with(row: Result) -> str:
    """What tells rows of one case apart: tiles, ensemble, precision."""
    tiles = " ".join(str(part) for part in (row.tiling, row.tile) if part is not None)
    ensemble = f"{row.ensemble} ensemble" if row.ensemble not in (None, "none") else ""
    return ", ".join(part for part in (tiles, ensemble, row.precision) if part)


def _how(row: Result) -> str:
    """What the rows of a file mostly share."""
    window = row.ssim_window and f"SSIM {row.ssim_window}"
    parts = [f"protocol {row.protocol}", row.degradation, row.rounding, window, row.device]
    return "; ".join(part for part in parts if part)


def front_matter(manifest: Manifest) -> str:
    """The Hub's YAML: what it shows, and what it is searched by."""
    from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

    files = manifest.files
    licences = sorted({_licence_id(e.licence) for e in files.values()})
    known = len(licences) == 1 and licences[0] in HUB_LICENCES
    data: dict[str, Any] = {
        "library_name": "dagl",
        "pipeline_tag": "image-to-image",
        "license": licences[0] if known else "other",
        **({} if known else {"license_name": "-and-".join(licences)}),
        "datasets": list(manifest.training_sets),
        "metrics": ["psnr", "ssim"],
        "tags": ["image-restoration", *dict.fromkeys(e.task for e in files.values())],
        "model-index": [
            {"name": Path(name).stem, "results": [_index(e, row) for row in e.results]}
            for name, e in files.items()
            if e.results
        ],
    }
    return f"---\n{yaml_dump({key: value for key, value in data.items() if value}, sort_keys=False)}---\n\n"


def _licence_id(licence: str | None) -> str:
    """A licence as the Hub writes them, like `cc-by-4.0`."""
    return re.sub(r"[^a-z0-9.]+", "-", (licence or "not stated").split(":")[0].lower()).strip("-")


def _index(e: Entry, row: Result) -> dict[str, Any]:
    level = "" if row.level is None else f" {'quality' if e.task == 'dejpeg' else 'sigma'} {row.level:g}"
    return {
        "task": {"type": "image-to-image", "name": e.task},
        "dataset": {"name": f"{row.dataset}{level}", "type": row.dataset},
        "metrics": [
            {"type": "psnr", "name": "PSNR", "value": round(row.psnr, 2)},
            {"type": "ssim", "name": "SSIM", "value": round(row.ssim, 4)},
        ],
    }


def export(paths: Sequence[Path], target: Path, rows: Sequence[Result] = (), *, overwrite: bool = False) -> Manifest:
    """A folder that is ready for the Hub: the weight files, their manifest, card and configuration.

    What the manifests beside the files say of them is taken along. Returns the new manifest.
    Raises UsageError when the folder has one of the files already (without `overwrite`), DaglError when it cannot be
    written to.
    """
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        raise UsageError("two of the models have one file name: export them to different folders")
    try:
        target.mkdir(parents=True, exist_ok=True)
        for name in (*names, MANIFEST, CARD, CONFIG):
            if (target / name).exists() and not overwrite:
                raise UsageError(f"{target / name} exists: `overwrite` replaces it")
        made = manifest(paths, _agreed(paths), rows)
        configs = {path.stem: weights.describe(path)[0].to_dict() for path in paths}
        for path in paths:
            with replacing(target / path.name) as temporary:
                shutil.copyfile(path, temporary)
        write_json(target / CONFIG, {"library_name": "dagl", "models": configs})
        write_json(target / MANIFEST, made.to_dict())
        write(target / CARD, (front_matter(made) + card(made)).encode())
    except OSError as error:
        raise DaglError(f"{target}: {error.strerror}: choose another folder, or make room") from None
    return made


def check_licence(name: str, licence: str | None, place: str = f"{MANIFEST} beside the file") -> None:
    """Raises WeightsError for weights that nobody has said may be passed on. place: where a licence is stated."""
    if not (licence or "").strip():
        raise WeightsError(f"{name}: no licence is stated: {place} is where it belongs")
    if not re.match(rf"\s*({OPEN})\b", licence or "", re.IGNORECASE):
        raise WeightsError(f"{name} may not be passed on: its licence is '{plain(licence or '')[:60]}'")


def push(folder: Path, repository: str, *, private: bool = False, revision: str = "main") -> hub.Spec:
    """Upload an exported folder (`export`) in one commit: what its manifest names, the manifest, card, configuration.

    Returns what names the commit. Raises WeightsError for a file that is damaged, or whose licence is not stated or
    does not let it be passed on, and for what is in the way of the upload.
    """
    made = read(folder / MANIFEST)
    for name, e in made.files.items():
        weights.check(folder / name, e.sha256)
        check_licence(name, e.licence)
    names = [*made.files, *(name for name in (MANIFEST, CARD, CONFIG) if (folder / name).is_file())]
    return hub.push(folder, names, repository, private=private, revision=revision)


def _agreed(paths: Sequence[Path]) -> Manifest:
    """What the manifests beside files from several folders say: of each file what its own one does, of all of them
    the licence and training data that they agree on.
    """
    abouts: Mapping[Path, Manifest] = {path: beside(path) for path in paths}

    def common(values: set[str | None]) -> str | None:
        return values.pop() if len(values) == 1 else None

    return Manifest(
        {path.name: entry(path, about) for path, about in abouts.items()},
        common({about.licence for about in abouts.values()}),
        common({about.training_data for about in abouts.values()}),
        tuple(dict.fromkeys(name for about in abouts.values() for name in about.training_sets)),
    )

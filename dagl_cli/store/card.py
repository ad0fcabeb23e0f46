"""What is published of weight files: the manifest and the card beside them, and a folder for the Hub."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock

from .. import __version__
from ..config import TASKS, ModelConfig, variant_of
from ..errors import DaglError, UsageError, WeightsError
from ..files import replacing, write
from ..measuring import datasets
from . import weights

CARD = "README.md"
CONFIG = "config.json"
RESULT_KEYS = (
    "dataset", "level", "images", "input_psnr", "input_ssim", "psnr", "ssim", "published", "protocol", "degradation",
    "rounding", "ssim_window", "seed", "tiling", "tile", "overlap", "ensemble", "device", "precision", "version",
)  # fmt: skip
"""What the manifest keeps of a row of `dagl benchmark --json`."""
HUB_LICENCES = ("mit", "apache-2.0", "cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0")
"""What the Hub knows of the licences that weights have; another one is `other` there, with a name."""
MEASURED = ("dataset", "level", "protocol", "tiling", "ensemble")
"""What tells two results of one file apart."""


def entry(
    path: Path, about: dict[str, Any], previous: dict[str, Any], rows: Iterable[dict[str, Any]]
) -> dict[str, Any]:
    """What the manifest says of a weight file.

    about: `licence` and `training_data` of a new file that names none itself. previous: the file's entry so far; what
    it says is kept as long as the SHA-256 is the same. rows: of `dagl benchmark --json`; those
    of this very file are taken, by SHA-256, or by name where a row has none. Raises WeightsError.
    """
    config, info, parameters = weights.describe(path)
    digest = weights.sha256(path)
    training = info.get("training", {})
    device = info.get("device") or (training.get("device") if training.get("device") != "auto" else None)
    kept = previous if previous.get("sha256") == digest else {}
    found = {
        "sha256": digest, "bytes": path.stat().st_size, "task": config.task, "channels": config.channels,
        "network": network(config), "variant": variant_of(config), "parameters": parameters,
        "licence": info.get("licence") or kept.get("licence") or about.get("licence"),
        "training_data": info.get("training_data") or kept.get("training_data") or about.get("training_data"),
        "training": {key: value for key, value in (
            ("source", info.get("source")), ("steps", info.get("step")), ("minutes", info.get("minutes")),
            ("device", device), ("precision", info.get("precision")), ("command", info.get("command")),
            ("images", info.get("photos")), ("data_sha256", info.get("data_sha256")),
            ("init_from", training.get("init_from")), ("settings", training), ("dagl", info.get("version")),
        ) if value is not None},
    }  # fmt: skip
    for key in ("runs", "note"):
        if value := info.get(key) or kept.get(key):
            found[key] = value
    results = {_measured(row): row for row in kept.get("results", ())}
    for row in rows:
        if _is_of(row, path.stem, digest):
            results[_measured(row)] = {key: _rounded(key, row[key]) for key in RESULT_KEYS if row.get(key) is not None}
    order = sorted(results.values(), key=lambda row: (row["dataset"], row.get("level") or 0, row.get("protocol", "")))
    return found | {"results": order}


def network(config: ModelConfig) -> str:
    """What has no graph is not called DAGL."""
    return "DAGL" if config.stages else "residual, no graph"


def _measured(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(key) for key in MEASURED)


def _is_of(row: dict[str, Any], name: str, digest: str) -> bool:
    if row.get("image") or row.get("variant") or row.get("method", "ours") != "ours":
        return False
    said = row.get("sha256")
    return digest.startswith(said) if said else name in (row.get("weights"), row.get("model"))


def unused(rows: Sequence[dict[str, Any]], manifest: dict[str, Any]) -> int:
    """How many rows are of none of the manifest's files."""
    files = [(Path(name).stem, e["sha256"]) for name, e in manifest["files"].items()]
    return sum(not any(_is_of(row, *file) for file in files) for row in rows)


def _rounded(key: str, value: Any) -> Any:
    return round(value, 4) if key.endswith(("psnr", "ssim")) else value


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The rows of `dagl benchmark --json` outputs. Raises UsageError for another file."""
    rows: list[dict[str, Any]] = []
    for path in paths:
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            rows += content["rows"] if isinstance(content, dict) else content
            if not all(map(weights.is_result, rows)):
                raise ValueError
        except OSError as error:
            raise UsageError(f"--results {path}: {error.strerror}: give an output of `dagl benchmark --json`") from None
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(f"--results {path}: not an output of `dagl benchmark --json`") from None
    for row in rows:
        whole = len(datasets.DATASETS[row["dataset"]].samples) if row["dataset"] in datasets.DATASETS else 0
        if row["images"] < whole:
            raise UsageError(
                f"--results: {row['dataset']} with {row['images']} of its {whole} images: measure without --limit"
            )
    return rows


def manifest(
    paths: Sequence[Path], previous: dict[str, Any] | None = None, rows: Sequence[dict[str, Any]] = ()
) -> dict[str, Any]:
    """The manifest of weight files (`weights.read_manifest` reads it).

    previous: the manifest so far. What people wrote in it is kept: `licence`, `training_data` and `training_sets`,
    which hold for every file that comes new, and of each unchanged file these, its `runs` (how it was made, run by
    run), its `note` and its results.
    """
    previous = previous or {}
    about: dict[str, Any] = {
        key: previous[key] for key in ("licence", "training_data", "training_sets") if key in previous
    }
    files = previous.get("files", {})
    return (
        {"format": weights.MANIFEST_FORMAT, "dagl": __version__}
        | about
        | {"files": {path.name: entry(path, about, files.get(path.name, {}), rows) for path in sorted(paths)}}
    )


def publish(folder: Path, rows: Sequence[dict[str, Any]] = (), *, front: bool = False) -> dict[str, Any]:
    """Write `manifest.json` and the card `README.md` of a folder's weight files, from the files and `rows`.

    front: with the Hub's front matter. Returns the manifest. Raises WeightsError when there are no weight files.
    """
    paths = sorted(folder.glob("*.safetensors"))
    if not paths:
        raise WeightsError(f"{folder}: no weight files (.safetensors) in it")
    path = folder / weights.MANIFEST
    made = manifest(paths, weights.read_manifest(path) if path.exists() else None, rows)
    try:
        _write_json(path, made)
        write(folder / CARD, (front_matter(made) * front + card(made)).encode())
    except OSError as error:
        raise DaglError(f"{folder}: {error.strerror}: make it writable, or make room") from None
    return made


def _write_json(path: Path, content: Any) -> None:
    write(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def record(path: Path) -> None:
    """Add one file to the manifest beside it, so that `dagl weights verify` knows it. Raises DaglError."""
    beside = path.parent / weights.MANIFEST
    try:
        with FileLock(path.parent / ".lock"):
            files = weights.read_manifest(beside)["files"] if beside.is_file() else {}
            made = manifest([path])
            made["files"] = files | made["files"]
            _write_json(beside, made)
    except OSError as error:
        raise DaglError(f"{beside}: {error.strerror}: make it writable, or make room") from None


def card(manifest: dict[str, Any]) -> str:
    """Markdown: what every file of a manifest is, how it was made, its results and its licence."""
    lines = ["# Weights of dagl", ""]
    lines += [
        "Image restoration with DAGL (Dynamic Attentive Graph Learning, ICCV 2021), and with its residual network",
        "alone. Each file is safetensors with its configuration inside: `dagl denoise --model FILE in.png`, or from a",
        "repository on the Hub `dagl denoise --model hub:OWNER/REPO:FILE in.png`; `dagl weights verify` checks the",
        "SHA-256 below.", "",
        "| file | task | colours | network | parameters | MB | licence |", "|---|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, e in manifest["files"].items():
        lines.append(
            f"| `{name}` | {e['task']} | {_colours(e)} | {_network(e)} | {e['parameters']:,} | "
            f"{e['bytes'] / 1e6:.1f} | {e['licence'] or 'not stated'} |"
        )
    for title, key in (("Training data", "training_data"), ("Licence of the weights", "licence")):
        if key in manifest:
            lines += ["", f"**{title}**: {manifest[key]}"]
    lines += [
        "", "What is called `DAGL` has its graph attention; what is called `residual, no graph` is the same network "
        "without it, and is not DAGL.",
    ]  # fmt: skip
    for name, e in manifest["files"].items():
        lines += ["", *_section(name, e, manifest)]
    lines += ["", "Made by `dagl weights manifest`, from the files and the output of `dagl benchmark --json`."]
    return "\n".join(lines) + "\n"


def _colours(e: dict[str, Any]) -> str:
    return "gray" if e["channels"] == 1 else "RGB"


def _network(e: dict[str, Any]) -> str:
    return e["network"] + (f" (`{e['variant']}`)" if e["variant"] else "")


def _section(name: str, e: dict[str, Any], manifest: dict[str, Any]) -> list[str]:
    lines = [
        f"## `{name}`", "",
        f"{TASKS[e['task']].summary[0].upper()}{TASKS[e['task']].summary[1:]}; {_colours(e)}; {_network(e)}; "
        f"{e['parameters']:,} parameters. SHA-256 `{e['sha256']}`.",
    ]  # fmt: skip
    for title, key in (("Licence", "licence"), ("Training data", "training_data")):
        if e[key] != manifest.get(key):
            lines += ["", f"{title}: {e[key] or 'not stated'}."]
    t = e["training"]
    if e.get("runs"):
        lines += ["", "| run | flags | minutes | steps |", "|---|---|---|---|"]
        lines += [f"| {r['name']} | `{r['flags']}` | {r['minutes']:g} | {r['steps']:,} |" for r in e["runs"]]
    elif "steps" in t:
        told = [f"{t['steps']:,} steps", f"{t['minutes']:g} minutes" if "minutes" in t else ""]
        told += [t.get("device", ""), t.get("precision", "").removeprefix("torch.")]
        told += [f"{t['images']} images" if "images" in t else "", f"from {t['init_from']}" if "init_from" in t else ""]
        lines += ["", f"Trained: {', '.join(part for part in told if part)}."]
        if "command" in t:
            lines += ["", f"`{t['command']}`"]
    elif "source" in t:
        lines += ["", f"Converted from {t['source']}."]
    if e.get("note"):
        lines += ["", e["note"]]
    if e["results"]:
        levels = {"denoise": "σ", "real": "σ", "dejpeg": "quality"}.get(e["task"], "level")
        lines += [
            "",
            f"| set | {levels} | images | with | input | **this file** | SSIM | paper's DAGL | its best other |",
            "|---|---|---|---|---|---|---|---|---|",
        ]  # fmt: skip
        for row in e["results"]:
            paper, best = _published(row)
            level = "" if row.get("level") is None else f"{row['level']:g}"
            lines.append(
                f"| {row['dataset']} | {level} | {row['images']} | {_with(row)} | {row['input_psnr']:.2f} | "
                f"**{row['psnr']:.2f}** | {row['ssim']:.4f} | {paper} | {best} |"
            )
        lines += ["", f"PSNR in dB, means over the images. {' / '.join(dict.fromkeys(map(_how, e['results'])))}."]
    return lines


def _published(row: dict[str, Any]) -> tuple[str, str]:
    """The paper's DAGL and its best competitor, as text; empty where the paper has no figure."""
    others = {name: values[0] for name, values in row.get("published", {}).items() if values and values[0] is not None}
    paper = others.pop("DAGL", None)
    best = max(others, key=lambda name: others[name], default=None)
    return "" if paper is None else f"{paper:.2f}", "" if best is None else f"{others[best]:.2f} ({best})"


def _with(row: dict[str, Any]) -> str:
    """What tells rows of one case apart: tiles, ensemble, precision."""
    tiles = " ".join(str(row[key]) for key in ("tiling", "tile") if key in row)
    ensemble = f"{row['ensemble']} ensemble" if row.get("ensemble", "none") != "none" else ""
    return ", ".join(part for part in (tiles, ensemble, row.get("precision")) if part)


def _how(row: dict[str, Any]) -> str:
    """What the rows of a file mostly share."""
    parts = [
        f"protocol {row['protocol']}", row.get("degradation"), row.get("rounding"),
        f"SSIM {row['ssim_window']}" if "ssim_window" in row else None, row.get("device"),
    ]  # fmt: skip
    return "; ".join(part for part in parts if part)


def front_matter(manifest: dict[str, Any]) -> str:
    """The Hub's YAML: what it shows, and what it is searched by."""
    from huggingface_hub.utils import yaml_dump  # type: ignore[attr-defined]

    files = manifest["files"]
    licences = sorted({_licence_id(e["licence"]) for e in files.values()})
    known = len(licences) == 1 and licences[0] in HUB_LICENCES
    data: dict[str, Any] = {
        "library_name": "dagl",
        "pipeline_tag": "image-to-image",
        "license": licences[0] if known else "other",
        **({} if known else {"license_name": "-and-".join(licences)}),
        "datasets": manifest.get("training_sets", []),
        "metrics": ["psnr", "ssim"],
        "tags": ["image-restoration", *dict.fromkeys(e["task"] for e in files.values())],
        "model-index": [
            {"name": Path(name).stem, "results": [_index(e, row) for row in e["results"]]}
            for name, e in files.items()
            if e["results"]
        ],
    }
    return f"---\n{yaml_dump({key: value for key, value in data.items() if value}, sort_keys=False)}---\n\n"


def _licence_id(licence: str | None) -> str:
    """A licence as the Hub writes them, like `cc-by-4.0`."""
    return re.sub(r"[^a-z0-9.]+", "-", (licence or "not stated").split(":")[0].lower()).strip("-")


def _index(e: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    level = "" if row.get("level") is None else f" {'quality' if e['task'] == 'dejpeg' else 'sigma'} {row['level']:g}"
    return {
        "task": {"type": "image-to-image", "name": e["task"]},
        "dataset": {"name": f"{row['dataset']}{level}", "type": row["dataset"]},
        "metrics": [
            {"type": "psnr", "name": "PSNR", "value": round(row["psnr"], 2)},
            {"type": "ssim", "name": "SSIM", "value": round(row["ssim"], 4)},
        ],
    }


def export(paths: Sequence[Path], target: Path, rows: Sequence[dict[str, Any]] = (), *, overwrite: bool = False) -> Any:
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
        for name in (*names, weights.MANIFEST, CARD, CONFIG):
            if (target / name).exists() and not overwrite:
                raise UsageError(f"{target / name} exists: --overwrite replaces it")
        made = manifest(paths, _beside(paths), rows)
        configs = {path.stem: weights.describe(path)[0].to_dict() for path in paths}
        for path in paths:
            with replacing(target / path.name) as temporary:
                shutil.copyfile(path, temporary)
        _write_json(target / CONFIG, {"library_name": "dagl", "models": configs})
        _write_json(target / weights.MANIFEST, made)
        write(target / CARD, (front_matter(made) + card(made)).encode())
    except OSError as error:
        raise DaglError(f"{target}: {error.strerror}: choose another folder, or make room") from None
    return made


def _beside(paths: Sequence[Path]) -> dict[str, Any]:
    """What the manifests beside files from several folders say: of each file what its own one does, of all of them
    the licence and training data that they agree on.
    """
    abouts, files = [], {}
    for path in paths:
        beside = path.parent / weights.MANIFEST
        found = weights.read_manifest(beside) if beside.is_file() else {"files": {}}
        abouts.append(found)
        files[path.name] = entry(path, found, found["files"].get(path.name, {}), ())
    agreed = {
        key: abouts[0][key]
        for key in ("licence", "training_data")
        if abouts and all(key in about and about[key] == abouts[0][key] for about in abouts)
    }
    sets = list(dict.fromkeys(name for about in abouts for name in about.get("training_sets", ())))
    return agreed | ({"training_sets": sets} if sets else {}) | {"files": files}

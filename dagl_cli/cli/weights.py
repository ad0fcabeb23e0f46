"""`dagl weights`: which weights there are, where they come from, whether they are intact, what one may do with them."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Column, Table
from rich.text import Text

from ..config import RAW_FILES, TASKS
from ..errors import UsageError, WeightsError, plain, unknown
from .boundary import app, group
from .completion import among, models
from .console import errors, say, stdout
from .options import Json, Offline, Overwrite, Quiet, a_path

if TYPE_CHECKING:
    from ..store.hub import DownloadProgress
    from ..store.manifest import Entry, Manifest, Result

commands = group("Weights: bundled, from the Hub, and from DAGL's authors.")
app.add_typer(commands, name="weights")

Names = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL]...",
        help="Bundled or imported names, files, or hub:OWNER/REPO; default: bundled.",
        autocompletion=models,
    ),
]
Name = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="Bundled or imported name, file, or hub:OWNER/REPO[:FILE].", autocompletion=models
    ),
]
Results = Annotated[
    list[Path] | None,
    typer.Option("--results", parser=a_path, help="Output of `dagl benchmark --json` (may be given again)."),
]


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2))


@contextmanager
def download_bars(quiet: bool) -> Iterator[DownloadProgress]:
    """Progress of downloads, one bar per file."""
    bars: dict[str, Any] = {}
    with Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        console=errors, transient=True, disable=quiet or not errors.is_terminal,
    ) as progress:  # fmt: skip

        def report(name: str, done: int, total: int | None) -> None:
            if name not in bars:
                bars[name] = progress.add_task(plain(name))
            progress.update(bars[name], completed=done, total=total)

        yield report


def known(path: Path) -> Entry:
    """Everything that is known of a weight file: its manifest entry, as far as it is of this very file."""
    from ..store import card, manifest

    return card.entry(path, replace(manifest.beside(path), licence=None, training_data=None))


def as_row(path: Path, entry: Entry) -> dict[str, Any]:
    """For --json."""
    return {"name": path.stem, "path": str(path)} | entry.to_dict()


def located(names: list[str] | None, offline: bool = False) -> list[Path]:
    """The files that are meant; None: the bundled ones."""
    from ..store import weights

    try:
        with download_bars(quiet=False) as report:
            found = [weights.resolve(name, "denoise", 3, offline=offline, progress=report) for name in names or ()]
    except WeightsError as error:
        raise WeightsError(str(error).removeprefix("`model` ")) from None
    return found or weights.bundled()


@commands.command("list")
def list_weights(as_json: Json = False) -> None:
    """The bundled and the imported weights: task, colours, network, training, licence."""
    from ..store import weights

    found: list[tuple[Path, Entry, str]] = []
    damaged = []
    for place, paths in (("bundled", weights.bundled()), ("imported", weights.imported())):
        for path in paths:
            try:
                found.append((path, known(path), place))
            except WeightsError as error:
                damaged.append(str(error))
    if as_json:
        rows = [as_row(path, replace(entry, runs=(), note=None)) | {"from": place} for path, entry, place in found]
        print_json([{key: value for key, value in row.items() if key != "results"} for row in rows])
    else:
        show({path.stem: entry for path, entry, _ in found})
    for line in damaged:
        say(f"Error: {line}", "red")
    if damaged:
        raise typer.Exit(WeightsError.exit_code)


def show(entries: dict[str, Entry]) -> None:
    table = Table(
        "name", "task", "colours", "network", "parameters", "licence", box=None, pad_edge=False, padding=(0, 1, 0, 0)
    )
    for column in table.columns:
        column.overflow = "fold"  # in a narrow terminal too nothing is left out
    for name, e in entries.items():
        variant = f" ({e.variant})" if e.variant else ""
        add_row(
            table, name, e.task, e.colours, e.network.split(", ")[-1] + variant, f"{e.parameters:,}",
            (e.licence or "not stated").split(":")[0],
        )  # fmt: skip
    stdout().print(table)


def add_row(table: Table, *cells: str) -> None:
    """Text from files: nothing in it steers the terminal, and brackets are brackets."""
    table.add_row(*(Text(plain(cell)) for cell in cells))


@commands.command()
def info(model: Name, as_json: Json = False, offline: Offline = False) -> None:
    """All about one file: network, training and its data, licence, results, SHA-256."""
    path = located([model], offline)[0]
    e = known(path)
    if as_json:
        print_json(as_row(path, e))
        return
    training = {k: v for k, v in e.training.to_dict().items() if k not in ("settings", "data_sha256")}
    table = Table("", Column(overflow="fold"), show_header=False, box=None)
    for key, value in (
        ("name", path.stem), ("file", f"{path} ({e.bytes:,} bytes)"), ("SHA-256", e.sha256), ("task", e.task),
        ("colours", e.colours), ("network", e.network + (f" ({e.variant})" if e.variant else "")),
        ("parameters", f"{e.parameters:,}"), ("licence", e.licence or "not stated"),
        ("training data", e.training_data or "not stated"),
        ("training", ", ".join(f"{key} {value}" for key, value in training.items())),
        *((f"run {run.name}", f"{run.flags}: {run.minutes:g} minutes, {run.steps:,} steps") for run in e.runs),
        *((f"{row.dataset} {'' if row.level is None else format(row.level, 'g')}",
           f"{row.psnr:.2f} dB, SSIM {row.ssim:.4f} (input {row.input_psnr:.2f}; {row.protocol})")
          for row in e.results),
        ("note", e.note or ""),
    ):  # fmt: skip
        if value:
            add_row(table, key, value)
    stdout().print(table)


@commands.command()
def path(model: Name, as_json: Json = False, offline: Offline = False) -> None:
    """The local path of a model (fetched from the Hub if need be)."""
    found = located([model], offline)[0]
    if as_json:
        print_json({"model": model, "path": str(found)})
    else:
        print(found)


@commands.command()
def verify(models: Names = None, as_json: Json = False) -> None:
    """Compare files with the SHA-256 in the manifest beside them, or else with the one that they carry; exit code 4 if
    one differs. Asks no network.

    hub:OWNER/REPO stands for all of its files that are in the Hub's cache.
    """
    from ..store import hub, manifest, weights

    files: list[Path] = []
    for model in models or ():
        files += (
            weights.cached_from_hub(hub.parse(model))
            if model.startswith("hub:")
            else [weights.find(model) or located([model])[0]]
        )
    rows = []
    for file in files if models else weights.bundled():
        row = {"name": file.stem, "path": str(file), "intact": False, "message": ""}
        try:
            entry = manifest.beside(file).files.get(file.name)
            if entry is not None:
                weights.check(file, entry.sha256)
            elif not weights.check_carried(file):
                remedy = f"`dagl weights manifest {file.parent}`"
                raise WeightsError(f"{file}: carries no SHA-256 and is not in the manifest beside it: {remedy}")
            row["intact"] = True
        except WeightsError as error:
            row["message"] = str(error)
        rows.append(row)
    if not models:  # bundled files that are missing
        beside = weights.folder() / manifest.MANIFEST
        missing = manifest.read(beside).files.keys() - {file.name for file in weights.bundled()}
        rows += [
            {"name": Path(name).stem, "path": str(beside.with_name(name)), "intact": False,
             "message": f"{beside.with_name(name)}: missing: install dagl again"} for name in sorted(missing)
        ]  # fmt: skip
    if as_json:
        print_json(rows)
    for row in rows:
        if row["message"]:
            say(f"Error: {row['message']}", "red")
        elif not as_json:
            say(f"{row['name']}: intact")
    if not all(row["intact"] for row in rows):
        raise typer.Exit(WeightsError.exit_code)


@commands.command()
def download(
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODEL]...", help="hub:OWNER/REPO[@REVISION][:FILE], or names in --repo."),
    ] = None,
    repo: Annotated[
        str | None, typer.Option(envvar="DAGL_HUB_REPO", help="OWNER/REPO[@REVISION] that plain names belong to.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
    offline: Offline = False,
) -> None:
    """Fetch weights from the Hub into its cache, checked by SHA-256; afterwards they work without a network."""
    from ..store import hub, weights

    specs = []
    for model in models or [""]:
        if model.startswith("hub:"):
            specs.append(hub.parse(model))
        elif (repo := repo or hub.REPOSITORY) is None:
            raise WeightsError(
                "no weights of dagl are published on the Hub yet (the bundled ones need no download: "
                f"{', '.join(p.stem for p in weights.bundled()) or 'none'}): give hub:OWNER/REPO or --repo"
            )
        else:
            file = f"{model.removesuffix('.safetensors')}.safetensors" if model else None
            specs.append(replace(hub.parse(f"hub:{repo}"), file=file))
    rows = []
    with download_bars(quiet) as report:
        for spec in specs:
            path, published = weights.manifest_from_hub(spec, offline=offline, refresh=True, progress=report)
            for name in [spec.file] if spec.file else list(published.files):
                pinned = replace(spec, revision=path.parent.name, file=name)
                found = weights.from_hub(pinned, offline=offline, progress=report)
                rows.append({"model": str(pinned), "path": str(found)})
    if as_json:
        print_json(rows)
    elif not quiet:
        for row in rows:
            say(f"{row['model']}: {row['path']}")


@commands.command("import")
def import_weights(
    task: Annotated[
        str,
        typer.Option(
            help="denoise, real, dejpeg or demosaic: which of the authors' models.", autocompletion=among(TASKS)
        ),
    ],
    source: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", parser=a_path, help="Checkpoint (.pt), or a copy of the authors' archive "
                       "(zip, tar); default: fetched from the authors' repository."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", parser=a_path, help="Weight file to write; default: among the imported ones."),
    ] = None,
    member: Annotated[str | None, typer.Option(help="Which file of an archive.")] = None,
    url: Annotated[
        str | None, typer.Option(envvar="DAGL_RELEASE_URL", help="Mirror of raw.githubusercontent.com.")
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
    quiet: Quiet = False,
    offline: Offline = False,
) -> None:  # fmt: skip
    """Convert a checkpoint of DAGL's authors. Their repository states no licence: for your own use only.

    The checkpoint is read as plain tensors, and nothing in it is run. The conversion is strict, and the written file
    is proven to give the same output on a test image.
    """
    from ..store import card, release, weights

    if task not in release.CHECKPOINTS:
        raise unknown("task", task, release.CHECKPOINTS)
    name = f"release-{weights.default_name(task, 1 if task in ('denoise', 'dejpeg') else 3)}"
    target = output or weights.imported_folder() / f"{name}.safetensors"
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists: --overwrite replaces it")
    if source is None and offline:
        raise WeightsError("--offline: give the checkpoint or the archive as a FILE")
    checkpoint = release.CHECKPOINTS[task]
    if source is None:
        content = release.fetch(task, url or RAW_FILES)
        said = f"{checkpoint.path} of github.com/{release.REPOSITORY} at {release.COMMIT[:12]}"
    else:
        content = release.read(source, task, member)
        said = source.name
    found = release.convert(content, task, target, said)
    if output is None:  # among those of dagl alone
        card.record(target)
    if as_json:
        print_json({"path": str(target), "name": target.stem} | found)
        return
    if quiet:
        return
    origin = "the authors' file" if found["authors_file"] else "not a file whose hash is known"
    say(f"{said}: git blob {found['git_blob'][:12]} ({origin})")
    say(f"{target}: written; on a test image it differs from the checkpoint by {found['difference']:.1e} (float64)")
    say(f"Licence: {found['licence']}.", "yellow")
    say(f"Use it: dagl {'denoise --real' if task == 'real' else task} --model {output or target.stem} IN OUT")


def say_unused(rows: list[Result], made: Manifest) -> None:
    """Tell of results that were measured on something else."""
    from ..store import card

    if count := card.unused(rows, made):
        say(f"--results: {count} of {len(rows)} rows are of other weights or methods and were left out", "yellow")


@commands.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", parser=a_path, help="Folder to write.")],
    models: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Name or file (may be given again); default: the bundled ones.", autocompletion=models
        ),
    ] = None,
    results: Results = None,
    onnx: Annotated[
        bool, typer.Option("--onnx", help="ONNX networks instead of a folder for the Hub: needs dagl[onnx].")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    offline: Offline = False,
) -> None:
    """A folder that is ready for the Hub: weights, manifest, model card. Or, with --onnx, ONNX networks."""
    from ..store import card

    paths = located(models, offline)
    if onnx:
        from ..store import onnx as to_onnx

        targets = [folder / f"{path.stem}.onnx" for path in paths]
        for target in targets:
            if target.exists() and not overwrite:
                raise UsageError(f"{target} exists: --overwrite replaces it")
        for file, target in zip(paths, targets):
            difference = to_onnx.export(file, target)
            if not quiet:
                say(f"{target}: opset {to_onnx.OPSET}, differs from PyTorch by {difference:.1e} at most (two sizes)")
        return
    measured = card.read_results(results or [])
    made = card.export(paths, folder, measured, overwrite=overwrite)
    if quiet:
        return
    say_unused(measured, made)
    say(f"{folder}: {len(paths)} weight file(s), {', '.join((card.CARD, 'manifest.json', card.CONFIG))}")
    unstated = [path for path in paths if not made.files[path.name].licence]
    unlicensed = [name for name, e in made.files.items() if not re.match("MIT|CC|Apache", e.licence or "MIT")]
    for path in unstated:
        say(
            f'{path}: no licence is stated: before you publish it, write a "licence" (and "training_data") into '
            f"{path.parent / 'manifest.json'} (`dagl weights manifest {path.parent}` makes it) and export it again",
            "yellow",
        )
    if unlicensed:
        say(f"Do not publish it: {', '.join(unlicensed)} may not be passed on (see the licence in its card).", "yellow")
    elif not unstated:
        say(f"Publish it: hf upload OWNER/REPO {folder} .")


@commands.command()
def push(
    repository: Annotated[str, typer.Argument(metavar="OWNER/REPO", help="Repository on the Hub; made if need be.")],
    models: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FILE]...", help="Folder that `dagl weights export` made, or names, or weight files."),
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch; made if need be.")] = "main",
    private: Annotated[bool, typer.Option("--private", help="Where the repository is made: for you alone.")] = False,
    as_json: Json = False,
) -> None:
    """Upload weights with their manifest and card in one commit, and print the reference that is pinned to it.

    The token is that of `hf auth login`, or HF_TOKEN. Files whose licence is not stated, or forbids it, are refused.
    """
    from ..store import card

    with tempfile.TemporaryDirectory() as exported:
        folder = Path(models[0]) if models and len(models) == 1 and Path(models[0]).is_dir() else Path(exported)
        if folder == Path(exported):
            card.export(located(models), folder)
        made = card.push(folder, repository, private=private, revision=revision)
    if as_json:
        print_json({"repository": made.repository, "commit": made.revision, "reference": str(made)})
    else:
        print(made)


@commands.command()
def manifest(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", parser=a_path, help="Folder of weight files, as weights/ of the source.")
    ],
    results: Results = None,
    quiet: Quiet = False,
) -> None:
    """Write a folder's manifest.json and README.md anew, from its files and the benchmark's output.

    What people wrote into manifest.json is kept: licence, training_data and training_sets, which hold for new files,
    and of unchanged files all of it, with their runs, note and results.
    """
    from ..store import card

    measured = card.read_results(results or [])
    made = card.publish(folder, measured)
    if quiet:
        return
    say_unused(measured, made)
    for name, e in made.files.items():
        say(f"{name}: {len(e.results)} results, {len(e.runs)} runs, licence {e.licence}")

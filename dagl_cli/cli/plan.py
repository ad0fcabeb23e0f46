"""What a command reads and where it writes, before anything is done."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import UsageError
from ..files import visible
from .options import STDIO


@dataclass
class Plan:
    files: list[tuple[Path, Path]] = field(default_factory=list)
    """(source, target) of each file; `STDIO` stands for stdin and stdout."""
    failures: dict[str, str] = field(default_factory=dict)
    """Path -> why it cannot be read, of folders and files that are known to fail."""


def plan(paths: list[Path], output: Path | None, suffix: str, raws: bool = False) -> Plan:
    """The files of a command line; results mirror a folder's tree.

    `IN OUT` is a pair when there is no -o. raws: folders are searched for camera raw files too.
    Raises UsageError for an output that is an input, or written twice.
    """
    paths, output = split_output(paths, output)
    several = len(paths) > 1 or os.path.isdir(paths[0])
    check_output(output, suffix, several)
    if several and STDIO in paths:
        raise UsageError("- (stdin) cannot be mixed with other inputs")
    made = Plan()
    for path in paths:
        if path == STDIO:
            made.files.append((path, output or STDIO))
        elif os.path.isdir(path):
            add_folder(made, path, output, suffix, raws, beside_others=len(paths) > 1)
        elif output is None:
            made.files.append((path, as_result(path.with_name(path.stem + suffix + path.suffix))))
        elif several or os.path.isdir(output) or (output != STDIO and not output.suffix):
            made.files.append((path, output / as_result(path).name))
        else:
            made.files.append((path, output))
    check_targets(made.files)
    return made


def split_output(paths: list[Path], output: Path | None) -> tuple[list[Path], Path | None]:
    """`IN OUT` is a pair when there is no -o."""
    if output is not None or len(paths) == 1:
        return paths, output
    if len(paths) > 2:
        raise UsageError("several inputs need -o FOLDER")
    return paths[:1], paths[1]


def check_output(output: Path | None, suffix: str, several: bool) -> None:
    """Raises UsageError for an output that cannot hold what there is to write."""
    from .. import images

    if os.path.basename(suffix) != suffix:
        raise UsageError(f"--suffix {suffix} must not name a folder: use -o for that")
    if several and output == STDIO:
        raise UsageError("several images cannot go to stdout: give a folder with -o")
    if several and output and not os.path.isdir(output) and (os.path.lexists(output) or images.is_image_path(output)):
        raise UsageError(f"{output} is not a folder: the results of several inputs need one")


def add_folder(made: Plan, folder: Path, output: Path | None, suffix: str, raws: bool, beside_others: bool) -> None:
    """The images below a folder. beside_others: it is one of several inputs, whose results must not meet."""
    named = Path(os.path.realpath(folder)) if folder.name in ("", "..") else folder
    if output is None:
        root = named.parent / (named.name + suffix)
    else:
        root = output / named.name if beside_others else output
    found, failures = images_below(folder, output or root, raws)
    made.files += [(source, root / as_result(source.relative_to(folder))) for source in found]
    made.failures |= failures


def check_targets(files: list[tuple[Path, Path]]) -> None:
    """Raises UsageError where an output is an input, or the output of another."""
    sources = {os.path.realpath(source) for source, _ in files if source != STDIO}
    seen: dict[str, Path] = {}
    for source, target in files:
        if target == STDIO:
            continue
        real = os.path.realpath(target)
        if real in sources:
            raise UsageError(f"{target} is an input and is never overwritten: choose another output or --suffix")
        if real in seen:
            raise UsageError(f"{seen[real]} and {source} would both become {target}: choose other folders")
        seen[real] = source


def as_result(path: Path) -> Path:
    """The name of a result where the user gives none: the input's, but raw files become TIFFs."""
    from ..images import raw

    return path.with_suffix(raw.RESULT_SUFFIX) if raw.is_raw_path(path) else path


def images_below(folder: Path, results: Path, raws: bool = False) -> tuple[list[Path], dict[str, str]]:
    """Every image below a folder, sorted; and path -> why it cannot be read, of folders and of images.

    Hidden files are left out, and so are results of an earlier run that lie inside the folder. With `raws`, camera
    raw files are images too, and what lies beside one under the same name (the camera's JPEG) is left out; a second
    raw file of the name, whose result would be the same file, is a failure.
    """
    from .. import images
    from ..images import raw

    found: list[Path] = []
    unreadable: list[OSError] = []
    failures: dict[str, str] = {}
    for root, names in visible(folder, unreadable.append, os.path.realpath(results)):
        raw_names: list[str] = []
        developed: dict[str, str] = {}
        for name in (n for n in names if raws and raw.is_raw_path(n)):
            if (first := developed.setdefault(Path(name).stem, name)) == name:
                raw_names.append(name)
                continue
            path = Path(root, name)
            failures[str(path)] = (
                f"{path}: its result would have the name of that of {first} beside it: give it alone, with a name"
            )
        names = raw_names + [n for n in names if images.is_image_path(n) and Path(n).stem not in developed]
        paths = [Path(root, n) for n in sorted(names)]
        found += [path for path in paths if os.path.isfile(path) or not os.path.exists(path)]  # a pipe would block
    for error in unreadable:
        failures[error.filename] = f"cannot read {error.filename}: {error.strerror}: make it readable"
    return found, failures

"""What a command reads and where it writes, before anything is done."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from ..cluster.places import is_folder, uri, walk
from ..errors import UsageError
from ..files import entries
from .inputs import Filter, expanded
from .naming import Naming, format_of
from .options import STDIO, Shard


@dataclass
class Found:
    """What lies below a folder."""

    images: list[Path] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)
    """Path -> why it cannot be read, of folders and images that are known to fail."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """Why -> paths that are passed over."""


@dataclass
class Plan:
    files: list[tuple[Path, Path]] = field(default_factory=list)
    """(source, target) of each file; `STDIO` stands for stdin and stdout."""
    failures: dict[str, str] = field(default_factory=dict)
    """As in `Found`."""
    left_out: dict[str, list[str]] = field(default_factory=dict)
    """As in `Found`."""

    def part(self, shard: Shard, given: list[Path]) -> Plan:
        """What a shard holds of everything, so that all shards' reports add up to that of the whole.

        given: the files and folders of the command line.
        """

        above = [path for path in given if is_folder(path)]

        def mine(path: str | Path) -> bool:
            path = Path(path)
            folders = (folder for folder in above if folder != path and path.is_relative_to(folder))
            return shard.holds(path.relative_to(next(folders, path.parent)))

        left_out = {why: part for why, names in self.left_out.items() if (part := [n for n in names if mine(n)])}
        return Plan(
            [(source, target) for source, target in self.files if mine(source)],
            {path: why for path, why in self.failures.items() if mine(path)},
            left_out,
        )


EARLIER = "results of an earlier run"
OTHER = "files of other kinds"
RAW = "camera raw files, which `dagl restore` takes"
VIDEOS = "videos, which need dagl[video]"
BESIDE_RAW = "pictures beside a camera raw file of the same name"
FILTERED = "files that `include` or `exclude` leaves out"


def plan(
    paths: list[Path],
    output: Path | None,
    naming: Naming,
    *,
    only: Filter = Filter(),
    raws: bool = False,
    overwrite: bool = False,
    from_list: bool = False,
) -> Plan:
    """The files of a command line; results mirror a folder's tree.

    `IN OUT` is a pair when there is no -o. only: which files are taken. raws: folders are searched for camera raw
    files too. overwrite: targets may be replaced. from_list: the paths are all inputs, as they are.
    Raises UsageError for an output that is an input, or written twice.
    """
    if not from_list:
        paths, output = split_output(paths, output, overwrite)
        paths = [meant for path in paths for meant in expanded(path)]
    several = len(paths) > 1 or is_folder(paths[0])
    check_output(output, several)
    if several and STDIO in paths:
        raise UsageError("- (stdin) cannot be mixed with other inputs")
    made = Plan()
    siblings: dict[Path, list[Path]] = {}
    for path in paths:
        siblings.setdefault(path.parent, []).append(path)
    earlier = {folder: naming.made_of(inside) for folder, inside in siblings.items()} if several else {}
    for path in paths:
        if path == STDIO:
            check_whole_name(output or STDIO, naming)
            made.files.append((path, output or STDIO))
        elif is_folder(path):
            add_folder(made, path, output, naming, only, raws, beside_others=len(paths) > 1)
        elif not (uri(path) or os.path.lexists(path)):
            made.failures[str(path)] = f"cannot read {path}: there is no such file"
        elif not only.takes(path):
            made.left_out.setdefault(FILTERED, []).append(str(path))
        elif path.stem in earlier.get(path.parent, ()):
            made.left_out.setdefault(EARLIER, []).append(str(path))
        elif output is None:
            made.files.append((path, path.with_name(naming.of(path, beside=True))))
        elif several or is_folder(output) or (output != STDIO and not output.suffix):
            made.files.append((path, output / naming.of(path, beside=False)))
        else:
            check_whole_name(output, naming)
            made.files.append((path, output))
    made.files = distinct(made.files)
    return made


def split_output(paths: list[Path], output: Path | None, overwrite: bool) -> tuple[list[Path], Path | None]:
    """`IN OUT` is a pair when there is no -o, but not where that would cost a picture: `*.png` may be just two."""
    if output is not None or len(paths) == 1:
        return paths, output
    if len(paths) > 2:
        raise UsageError("several inputs need -o FOLDER")
    costs = is_readable(paths[1]) and os.path.isfile(paths[1]) and not is_same(paths[0], paths[1])
    if overwrite and costs:
        raise UsageError(f"{paths[1]} is an image: if it is the output to overwrite, say -o {paths[1]}")
    return paths[:1], paths[1]


def is_readable(path: Path) -> bool:
    """Whether the name ends like one of a picture, an animation or a video."""
    from .. import frames, images

    return images.is_image_path(path) or frames.is_frames_path(path)


def check_output(output: Path | None, several: bool) -> None:
    """Raises UsageError for an output that cannot hold what there is to write."""

    if several and output == STDIO:
        raise UsageError("several images cannot go to stdout: give a folder with -o")
    if several and output and not is_folder(output) and (os.path.lexists(output) or is_readable(output)):
        raise UsageError(f"{output} is not a folder: the results of several inputs need one")
    if output and not uri(output) and os.path.exists(output) and not (os.path.isfile(output) or is_folder(output)):
        raise UsageError(f"{output} is neither a file nor a folder: name one, or - for stdout")


def check_whole_name(output: Path, naming: Naming) -> None:
    """Raises UsageError where a file, or stdout, is given as the output, and with it how it should be called."""
    from .. import images

    if naming.pattern is not None:
        what = "stdout has no name" if output == STDIO else f"{output} is a whole name"
        raise UsageError(f"{what}: leave --name out, or give a folder with -o")
    named = images.SUFFIXES.get(output.suffix.lower())
    if naming.format is not None and output != STDIO and named != format_of(naming.format):
        raise UsageError(f"{output} and --format {naming.format} are two formats: leave one of them out")


def add_folder(
    made: Plan, folder: Path, output: Path | None, naming: Naming, only: Filter, raws: bool, beside_others: bool
) -> None:
    """The images below a folder. beside_others: it is one of several inputs, whose results must not meet."""
    named = Path(os.path.realpath(folder)) if folder.name in ("", "..") else folder
    if output is None:
        root = named.parent / (named.name + naming.suffix)
    else:
        root = output / named.name if beside_others else output
    found = images_below(folder, output or root, naming, only, raws)
    for source in found.images:
        below = source.relative_to(folder).parent
        made.files.append((source, root / below / naming.of(source, beside=False)))
    made.failures |= found.failures
    for why, names in found.left_out.items():
        made.left_out.setdefault(why, []).extend(names)


def distinct(files: list[tuple[Path, Path]]) -> list[tuple[Path, Path]]:
    """The files, each once. Raises UsageError where an output is an input, whatever links or mounts lead to it, or the
    output of another."""
    inputs = {name for source, _ in files if source != STDIO for name in entries(source)}
    sources = {source for source, _ in files}
    seen: dict[str, Path] = {}
    found = []
    for source, target in files:
        if target != STDIO:
            if target in sources or any(name in inputs for name in entries(target)) or is_same_name(source, target):
                raise UsageError(
                    f"{target} is an input and is never overwritten: choose another output, --suffix or --name"
                )
            real = os.path.realpath(target)
            if real in seen:
                if os.path.realpath(seen[real]) == os.path.realpath(source):
                    continue
                raise UsageError(
                    f"{seen[real]} and {source} would both become {target}: choose another --name, or other folders"
                )
            seen[real] = source
        found.append((source, target))
    return found


def is_same(a: Path, b: Path) -> bool:
    """Whether both are there and lead to one file."""
    return os.path.exists(a) and os.path.exists(b) and os.path.samefile(a, b)


def is_same_name(source: Path, target: Path) -> bool:
    """Whether two paths differ in nothing but the case of their names, on a file system that does not tell it."""
    return (
        source.name.casefold() == target.name.casefold()
        and is_same(source, target)
        and is_same(source.parent, target.parent)
    )


def images_below(
    folder: Path, results: Path, naming: Naming = Naming(""), only: Filter = Filter(), raws: bool = False
) -> Found:
    """What lies below a folder, sorted.

    Hidden files and folders are not looked at, nor `results` where it lies inside. Left out are what `only` does not
    take, results of an earlier run (`x_denoised` beside `x`, files and folders) and what dagl does not read. With
    `raws`, camera raw files are images too, and what lies beside one under the same name (the camera's JPEG) is left
    out; a second raw file of the name, whose result would be the same file, is a failure.
    """
    unreadable: list[OSError] = []
    found = Found()
    earlier: set[Path] = set()
    for root, names in walk(folder, unreadable.append, os.path.realpath(results)):
        here = Path(root)
        original = here.name.removesuffix(naming.suffix)
        made_of = original not in ("", here.name) and (here.parent / original).is_dir()
        if here != folder and (here.parent in earlier or made_of):
            earlier.add(here)
            found.left_out.setdefault(EARLIER, []).extend(str(here / name) for name in names)
        else:
            taken = {here / name: only.takes((here / name).relative_to(folder)) for name in names}
            if others := [str(path) for path, takes in taken.items() if not takes]:
                found.left_out.setdefault(FILTERED, []).extend(others)
            sort_out([path for path, takes in taken.items() if takes], naming, raws, found)
    for error in unreadable:
        found.failures[error.filename] = f"cannot read {error.filename}: {error.strerror}: make it readable"
    return found


def sort_out(paths: list[Path], naming: Naming, raws: bool, found: Found) -> None:
    """The files of one folder: what is to be restored, what fails, what is left out and why."""
    from .. import frames
    from ..images import raw

    earlier = naming.made_of([path for path in paths if is_readable(path) or raw.is_raw_path(path)])
    first_raw: dict[str, Path] = {}
    for path in paths:
        if raws and raw.is_raw_path(path):
            first_raw.setdefault(path.stem, path)
    for path in paths:
        why = None
        if path.stem in earlier:
            why = EARLIER
        elif raw.is_raw_path(path):
            why = None if raws else RAW
        elif not is_readable(path) or (path.exists() and not path.is_file()):  # a pipe would block
            why = OTHER
        elif frames.is_video_path(path):
            why = None if frames.is_available() else VIDEOS
        elif path.stem in first_raw:
            why = BESIDE_RAW
        if why:
            found.left_out.setdefault(why, []).append(str(path))
        elif (first := first_raw.get(path.stem, path)) != path:
            name = f"its result would have the name of that of {first.name} beside it"
            found.failures[str(path)] = f"{path}: {name}: give it alone, with a name"
        else:
            found.images.append(path)

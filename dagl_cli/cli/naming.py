"""What results are called: the input's name with a suffix, a pattern of the user's, another format."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

from ..errors import UsageError, unknown

FIELDS = ("stem", "suffix", "folder", "sigma")
"""Of a pattern: the input's name without its ending; the result's ending, with the dot; the name of the folder that the
input lies in; the noise level that was given."""
_LONGEST_SPEC = 8


@dataclass(frozen=True)
class Naming:
    """How names of results are made, all of them before the work. Raises UsageError for what cannot be a name."""

    suffix: str
    """Added to the name of a result that lies beside its input, and to that of a folder of results."""
    pattern: str | None = None
    """The whole name of a file, with `FIELDS` in braces, instead of the suffix."""
    format: str | None = None
    """What results are, by a file ending with or without its dot: 'png'. None: what their inputs are."""
    sigma: float | None = None

    def __post_init__(self) -> None:
        if os.path.basename(self.suffix) != self.suffix:
            raise UsageError(f"`suffix` {self.suffix} must not name a folder: use `output` for that")
        if self.format is not None:
            format_of(self.format)
        if self.pattern is not None:
            for name, spec in _fields(self.pattern):
                if name == "sigma" and self.sigma is None:
                    raise UsageError(f"`name` {self.pattern}: an estimated level is not known before: give `sigma`")
                _shown(0.0 if name == "sigma" else "", spec, self.pattern)

    def of(self, source: Path, beside: bool) -> str:
        """The name of a file's result. beside: it lies where its input does, unless a pattern says what it is called.

        Raises UsageError for a pattern that gives no name, or one that names no format.
        """
        if self.pattern is None:
            return source.stem + (self.suffix if beside else "") + self._ending(source)
        values = {"stem": source.stem, "suffix": self._ending(source), "sigma": self.sigma}
        values["folder"] = os.path.basename(os.path.dirname(os.path.abspath(source)))
        name = "".join(
            text + (_shown(values[field], spec or "", self.pattern) if field else "")
            for text, field, spec, _ in Formatter().parse(self.pattern)
        )
        if os.path.basename(name) != name or name in ("", ".", "..", self._ending(source)):
            raise UsageError(f"`name` {self.pattern} makes '{name}' of {source}, which is no name: use `output`")
        if not name.endswith(self._ending(source)):
            self._check_ending(name, source)
        return name

    def _check_ending(self, name: str, source: Path) -> None:
        from .. import frames, images

        found = images.SUFFIXES.get(Path(name).suffix.lower())
        if self.format is None and frames.is_frames_path(name):
            return
        if found is None or (self.format is not None and found != format_of(self.format)):
            what = "no format" if found is None else f"another format than `format` {self.format}"
            raise UsageError(
                f"`name` {self.pattern} makes '{name}' of {source}, which ends in {what}: end in {{suffix}}"
            )

    def _ending(self, source: Path) -> str:
        """The result's: the input's where that is right, else that of `format`, of what raw files and HEIC become."""
        from .. import frames, images
        from ..images import raw

        if self.format is not None:
            same = images.SUFFIXES.get(source.suffix.lower()) == format_of(self.format)
            return source.suffix if same else f".{self.format.lower().removeprefix('.')}"
        if raw.is_raw_path(source):
            return raw.RESULT_SUFFIX
        return frames.result_suffix(images.result_suffix(source))

    def made_of(self, paths: list[Path]) -> set[str]:
        """The stems that results of files of one folder would have beside them, of an earlier run perhaps."""
        if self.pattern is not None and not any(name == "stem" for name, _ in _fields(self.pattern)):
            return set()
        stems = {path: Path(self.of(path, beside=True)).stem for path in paths}
        return {stem for path, stem in stems.items() if stem != path.stem}


def format_of(ending: str) -> str:
    """'png' or '.PNG' -> 'PNG', a name in `images.FORMATS`. Raises UsageError."""
    from .. import images

    known = {suffix[1:]: name for suffix, name in images.SUFFIXES.items()}
    if (found := known.get(ending.lower().removeprefix("."))) is None:
        raise unknown("format", ending, known)
    return found


def _fields(pattern: str) -> Iterator[tuple[str, str]]:
    """(name, how to write it) of each field. Raises UsageError."""
    try:
        parts = list(Formatter().parse(pattern))
    except ValueError:
        raise UsageError(f"`name` {pattern} has a brace that stands alone: write {{{{ or }}}} for one") from None
    for _, name, spec, conversion in parts:
        if name is None:
            continue
        if name not in FIELDS:
            raise UsageError(f"`name` {pattern} has an unknown field: choose {{{'}, {'.join(FIELDS)}}}")
        if conversion or len(spec or "") > _LONGEST_SPEC or "{" in (spec or ""):
            raise UsageError(f"`name` {pattern}: {{{name}}} cannot be written so: leave out what stands behind {name}")
        yield name, spec or ""


def _shown(value: object, spec: str, pattern: str) -> str:
    try:
        return format(value, spec or ("g" if isinstance(value, float) else ""))
    except (ValueError, OverflowError, MemoryError):
        raise UsageError(f"`name` {pattern}: ':{spec}' is no way to write its field: leave it out") from None

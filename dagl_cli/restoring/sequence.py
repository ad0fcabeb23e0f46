"""A file of frames restored into another: frame by frame as pictures are, all that belong together treated alike."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Container, Hashable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from .. import images
from ..errors import ImageError
from ..files import Entry
from ..frames import Frame, Sequence
from ..images import Image
from .guard import Finding
from .picture import Case, Outcome, PictureRestorer, case_of
from .tiling import Tick

_MOST_SEEN = 24_000_000
"""Pixels of the frames that a group is judged by, if they are several."""


@dataclass
class Tally:
    """What has been done to the frames so far."""

    frames: int = 0
    restored: int = 0
    pages: int = 0
    """Of stacks, whose pages may be several frames."""
    last: int = 0
    models: dict[str, None] = field(default_factory=dict)
    digests: dict[str, None] = field(default_factory=dict)
    precisions: dict[str, None] = field(default_factory=dict)
    backends: dict[str, None] = field(default_factory=dict)
    levels: list[float] = field(default_factory=list)
    qualities: list[int] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, frame: Frame, outcome: Outcome, leading: bool = True) -> None:
        """leading: the level is worth telling; of planes it is that of the brightness."""
        self.frames += 1
        self.restored += outcome.status == "restored"
        self.pages += frame.number != self.last
        self.last = frame.number
        told = (
            (self.models, outcome.model), (self.digests, outcome.digest), (self.precisions, outcome.precision),
            (self.backends, outcome.backend),
        )  # fmt: skip
        for names, name in told:
            if name:
                names[name] = None
        if outcome.sigma is not None and leading:
            self.levels.append(outcome.sigma)
        if outcome.quality is not None:
            self.qualities.append(outcome.quality)
        if outcome.note:
            self.notes[outcome.note] += 1

    def outcome(self, sequence: Sequence, faults: list[ImageError]) -> Outcome:
        """Of the whole file."""
        said = [f"{fault}: what is before it is in the result" for fault in faults]
        said.append(counted(self.pages, sequence.words))
        if 0 < self.restored < self.frames:
            said.append(f"{self.frames - self.restored} left as they are")
        if self.levels and max(self.levels) - min(self.levels) >= 0.1:
            said.append(f"levels from {min(self.levels):.1f} to {max(self.levels):.1f}")
        for note, _ in self.notes.most_common(1):
            said.append(note if len(self.notes) == 1 else f"mostly {note}")
        said += sequence.notes
        return Outcome(
            "partial" if faults else "restored" if self.restored else "unchanged",
            sigma=statistics.median(self.levels) if self.levels else None,
            quality=round(statistics.median(self.qualities)) if self.qualities else None,
            model=", ".join(self.models) or None,
            digest=", ".join(self.digests) or None,
            precision=", ".join(self.precisions) or None,
            backend=", ".join(self.backends) or None,
            note="; ".join(said),
        )


def restore_frames(
    restorer: PictureRestorer,
    sequence: Sequence,
    target: Path | BinaryIO,
    suffix: str,
    *,
    strip_metadata: bool = False,
    overwrite: bool = False,
    inputs: Container[Entry] = frozenset(),
    recorded: Callable[[Image, Outcome], Image] = lambda picture, outcome: picture,
    progress: Tick | None = None,
) -> Outcome:
    """Restores a sequence. Nothing is written unless all of it went well, or all before a frame that is damaged.

    target: as for `FileRestorer`. suffix: what the name of such a file ends in. One frame alone may become a picture of
    any format. A sequence that needs nothing is copied byte for byte where that is possible.
    recorded: the first frame that is restored, with how it was made. progress: called with frames.
    Raises ImageError, also where the first frame is damaged already.
    """
    check_target(sequence, target, suffix)
    if suffix not in sequence.suffixes:  # one frame, as a picture of its own
        settings: dict[str, Any] = dict(strip_metadata=strip_metadata, overwrite=overwrite, inputs=inputs)
        settings["format"] = images.SUFFIXES[suffix]
        return _single(restorer, sequence, recorded, lambda picture: images.write(picture, target, **settings))
    found = {group: _needs(restorer, sequence, group) for group in sequence.groups()}
    if _is_white(restorer, found) and sequence.can_split():
        sequence.split = True
        found = {group: _needs(restorer, sequence, group) for group in sequence.groups()}
    findings = [finding for needs in found.values() for finding in needs.values()]
    copied = sequence.whole() and not strip_metadata and sequence.is_own(suffix)
    tally = Tally()
    faults: list[ImageError] = []
    with images.opened(target, overwrite=overwrite, inputs=inputs) as file:
        if copied and all(found.values()) and all(finding.nothing for finding in findings):
            sequence.copy(file)  # nothing is decoded and encoded for nothing
            said = [restorer.left(list(needs.values())) for needs in found.values()]
            return Outcome("unchanged", note="; ".join(dict.fromkeys([counted(sequence.count, sequence.words), *said])))
        with closing(sequence.writer(file, suffix, strip_metadata=strip_metadata)) as writer:
            for frame in _to_the_fault(sequence, faults):
                case = replace(case_of(frame.picture, restorer.task, restorer.pattern), gain=frame.gain)
                outcome, picture = restorer.treated(case, found=found[frame.group])
                if not tally.restored and outcome.status == "restored":
                    picture = recorded(picture, outcome)
                with images.write_errors(target):
                    writer.add(frame, picture)
                tally.add(frame, outcome, leading=not sequence.split or frame.group == sequence.groups()[0])
                if progress:
                    progress(tally.pages, max(tally.pages, sequence.count))
            with images.write_errors(target):
                writer.finish()
        if copied and not tally.restored and not faults:
            file.seek(0)
            file.truncate()
            sequence.copy(file)
    return tally.outcome(sequence, faults)


def _single(
    restorer: PictureRestorer,
    sequence: Sequence,
    recorded: Callable[[Image, Outcome], Image],
    write: Callable[[Image], list[str]],
) -> Outcome:
    """One frame, as a picture of its own. Raises ImageError where it is several, as channels are."""
    frame, *more = islice(sequence.frames(), 2)
    if more:
        raise ImageError(
            f"cannot write {sequence.name} as one picture: its channels are pictures of their own: choose .tif"
        )
    outcome, picture = restorer.treated(case_of(frame.picture, restorer.task, restorer.pattern))
    notes = write(recorded(picture, outcome) if outcome.status == "restored" else picture)
    outcome.note = "; ".join(filter(None, [outcome.note, *notes])) or None
    return outcome


def foreseen_frames(restorer: PictureRestorer, sequence: Sequence, target: Path | BinaryIO, suffix: str) -> Outcome:
    """What `restore_frames` would do, and its errors, without a network: by some frames of the first group."""
    check_target(sequence, target, suffix)
    cases = _cases(restorer, sequence, sequence.groups()[0])
    if not cases:
        next(sequence.frames())  # raises what is wrong with it
    outcomes = [restorer.foreseen(case) for case in cases]
    outcome = next((o for o in outcomes if o.status == "planned"), outcomes[0])
    outcome.note = "; ".join(filter(None, [counted(sequence.count, sequence.words), outcome.note]))
    return outcome


def check_target(sequence: Sequence, target: Path | BinaryIO, suffix: str) -> None:
    """Raises ImageError where a file with this ending cannot hold these frames."""
    if suffix in sequence.suffixes or (sequence.count == 1 and suffix in images.SUFFIXES):
        return
    choices = " or ".join(sequence.suffixes)
    what = counted(sequence.count, sequence.words) if sequence.count else sequence.words[1]
    one = f", or one {sequence.words[0]} (`pages`)" if suffix in images.SUFFIXES else ""
    name = target if isinstance(target, Path) else "the stream"
    gone = f"{what} of a {sequence.format} do not go into {suffix or 'it'}"
    raise ImageError(f"cannot write {name}: {gone}: choose {choices}{one}")


def counted(count: int, words: tuple[str, str]) -> str:
    return f"{count:,} {words[count != 1]}"


def _needs(restorer: PictureRestorer, sequence: Sequence, group: Hashable) -> dict[str, Finding]:
    """What all frames of a group need; empty where each is to be looked at by itself."""
    cases = _cases(restorer, sequence, group)
    return restorer.agreed(cases, sequence.alike) if len(cases) > 1 or sequence.alike else {}


def _is_white(restorer: PictureRestorer, found: dict[Hashable, dict[str, Finding]]) -> bool:
    """Whether nothing is to be done but to remove white noise, by the default model and from all alike."""
    needed = [
        (finding.task or task) for needs in found.values() for task, finding in needs.items() if not finding.nothing
    ]
    plain = restorer.model is None and restorer.options.luma == restorer.options.chroma
    return plain and needed == ["denoise"]


def _cases(restorer: PictureRestorer, sequence: Sequence, group: Hashable) -> list[Case]:
    """Some frames of a group."""
    cases: list[Case] = []
    for picture in sequence.samples(group):
        cases.append(case_of(picture, restorer.task, restorer.pattern))
        if sum(case.pixels.shape[0] * case.pixels.shape[1] for case in cases) > _MOST_SEEN:
            break
    return cases


def _to_the_fault(sequence: Sequence, faults: list[ImageError]) -> Iterator[Frame]:
    """The frames, up to one that is damaged, whose error is added to the list. Raises it where it is the first."""
    frames, some = sequence.frames(), False
    while True:
        try:
            frame = next(frames, None)
        except ImageError as error:
            if not some:
                raise
            faults.append(error)
            return
        if frame is None:
            return
        some = True
        yield frame

"""What a shell completes of the values of options: names from tables, and of what is here. Loads no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

Completion = Callable[[str], list[str]]
"""What has been typed of a value -> the values that begin so."""


def among(values: Iterable[str]) -> Completion:
    """Completes one of these."""

    def complete(incomplete: str) -> list[str]:
        return [value for value in values if value.startswith(incomplete)]

    return complete


def models(incomplete: str) -> list[str]:
    """The bundled and the imported models; of files the shell knows itself."""
    from ..store import weights

    return among([path.stem for path in (*weights.bundled(), *weights.imported())])(incomplete)


PEERS = ("input", "nlm", "tv", "bm3d", "malvar", "menon")
"""`measuring.peers.PEERS`, which loads torch."""


def compared(incomplete: str) -> list[str]:
    """What a benchmark compares with: other methods, and models."""
    return among(PEERS)(incomplete) + models(incomplete)


def formats(incomplete: str) -> list[str]:
    """Those that dagl writes, as file endings without the dot."""
    from ..images import SUFFIXES

    return among([suffix[1:] for suffix in SUFFIXES])(incomplete)

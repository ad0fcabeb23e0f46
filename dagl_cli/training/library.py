"""Photographs to train on for those who bring none: public ones, fetched once and checked. Loads no torch.

`library.json` pins every file by commit, size and SHA-256, as the test sets are (`measuring.datasets`). DIV2K, the
paper's training set, is one archive.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ..errors import DaglError, one_line
from ..images import is_image_path
from ..measuring import datasets
from ..measuring.datasets import Dataset, File, registry

DEFAULT = "CQ100"
"""What is trained on where no photographs are given."""


@dataclass(frozen=True)
class Archive(Dataset):
    """A set that is published as one zip file, at `address`; its one member of `files` is that."""

    address: str = ""
    pictures: str = ""
    """A regular expression for the members that are unpacked; its first group is the name they get."""
    members: int = 0
    """How many these are."""

    def url(self, file: File) -> str:
        """Where the archive is; DAGL_DATASETS_URL stands for a mirror of everything."""
        host = os.environ.get("DAGL_DATASETS_URL")
        return f"{host.rstrip('/')}/{self.name}/{quote(file.path)}" if host else f"{self.address}/{quote(file.path)}"


SETS: dict[str, Dataset] = registry(Path(__file__).with_name("library.json")) | {
    "DIV2K": Archive(
        name="DIV2K",
        note="800 photographs of DIV2K (Agustsson and Timofte, CVPRW 2017), which the paper trains on; for research",
        channels=3,
        files=(
            File("DIV2K_train_HR.zip", 3530603713, "9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335"),
        ),
        address="https://data.vision.ee.ethz.ch/cvl/DIV2K",
        pictures=r"DIV2K_train_HR/(\d{4}\.png)",
        members=800,
    )
}
"""Name -> set, as `data` takes it where no folder has that name. The archive's SHA-256 is that of TensorFlow Datasets
(`datasets/div2k/checksums.tsv`)."""


def count(entry: Dataset) -> int:
    """How many images a set has."""
    return entry.members if isinstance(entry, Archive) else sum(is_image_path(file.path) for file in entry.files)


def wanted(entry: Dataset, folder: Path) -> tuple[File, ...]:
    """The files that are fetched: none where an archive is unpacked already."""
    return () if isinstance(entry, Archive) and is_unpacked(entry, folder) else entry.files


def verify(entry: Dataset, folder: Path) -> dict[str, str]:
    """As `datasets.verify`; of an archive that is unpacked, whether all its pictures are there."""
    return datasets.verify(entry, folder) if wanted(entry, folder) else {"pictures": "ok"}


def unpacked(entry: Archive, folder: Path) -> Path:
    return folder / entry.name / "pictures"


def is_unpacked(entry: Archive, folder: Path) -> bool:
    place = unpacked(entry, folder)
    return place.is_dir() and sum(not path.name.startswith(".") for path in place.iterdir()) >= entry.members


def photographs(entry: Dataset, folder: Path) -> Path:
    """The folder of a fetched set's pictures, where an archive is unpacked first and then removed. Raises DaglError."""
    if not isinstance(entry, Archive):
        return folder / entry.name
    target = unpacked(entry, folder)
    archive = folder / entry.name / entry.files[0].path
    part = target.with_name(f".dagl-{secrets.token_hex(8)}.part")
    try:
        if not is_unpacked(entry, folder):
            part.mkdir()
            with zipfile.ZipFile(archive) as members:
                for member in members.infolist():
                    if name := re.fullmatch(entry.pictures, member.filename):
                        with members.open(member) as source, open(part / name[1], "xb") as picture:
                            shutil.copyfileobj(source, picture)
            if not is_unpacked(entry, folder):  # another process may have been faster
                shutil.rmtree(target, ignore_errors=True)
                os.replace(part, target)
        archive.unlink(missing_ok=True)
    except OSError as error:
        raise DaglError(
            f"{error.filename or archive}: {one_line(error)}: make room, or choose another folder"
        ) from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DaglError(
            f"{archive}: cannot be unpacked ({one_line(error)}): remove it, and it is fetched again"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target

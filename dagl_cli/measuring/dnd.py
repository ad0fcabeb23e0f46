"""Table 2: the Darmstadt Noise Dataset (Plötz and Roth, CVPR 2017), whose clean images only its own server has.

The data is `info.mat` and `images_srgb/0001.mat` ..., MATLAB 7.3 files (HDF5, so every array is turned): `info` holds
for each image 20 bounding boxes, rows top, left, bottom, right, counted from 1, ends included; each image file holds
`InoisySRGB`, (H, W, 3) float in [0, 1]. What the server takes is a folder of one file per image, with the restored
crops as a cell array `Idenoised`, `israw` false and `eval_version` '1.0'.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.io import savemat
from torch import Tensor

from ..errors import DaglError, UsageError, one_line
from ..files import replacing

EVAL_VERSION = "1.0"


def boxes(folder: Path) -> list[np.ndarray]:
    """The bounding boxes of every image, (boxes, 4) int: top, left, bottom, right as Python slices count.

    Raises DaglError when `info.mat` is missing or is not what the benchmark gives out.
    """
    with _open(folder / "info.mat") as file:
        try:
            info = file["info"]
            found = [np.array(info[reference]).T for reference in np.array(info["boundingboxes"]).ravel()]
        except (KeyError, TypeError, ValueError, AttributeError):
            raise DaglError(
                f"{folder / 'info.mat'}: no bounding boxes in it: give the DND folder as published"
            ) from None
    return [box.astype(int) - (1, 1, 0, 0) for box in found]


def crops(folder: Path, image: int, boxes: np.ndarray) -> Iterator[Tensor]:
    """The noisy crops of an image, counted from 1: (3, h, w) float32 in [0, 1]. Raises DaglError."""
    path = folder / "images_srgb" / f"{image:04d}.mat"
    with _open(path) as file:
        try:
            noisy = np.array(file["InoisySRGB"], np.float32)  # (3, W, H)
        except (KeyError, TypeError, ValueError, OSError):
            raise DaglError(f"{path}: no InoisySRGB in it: download the DND data again") from None
    for top, left, bottom, right in boxes:
        crop = noisy[:, left:right, top:bottom]
        if noisy.ndim != 3 or crop.shape[1:] != (right - left, bottom - top):
            raise DaglError(f"{path}: its size does not fit its bounding boxes: download the DND data again")
        yield torch.from_numpy(np.ascontiguousarray(crop.transpose(0, 2, 1)))


def submit(
    folder: Path,
    output: Path,
    restore: Callable[[Tensor], Tensor],
    settings: dict[str, Any],
    limit: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Restore every crop and write the package, one file per image: OUTPUT/0001.mat ...; returns the files.

    settings: all that decides the result. They are kept in OUTPUT/settings.json: with the same ones an interrupted
    run continues, with others it is refused. progress: called with (images done, images in all).
    Raises UsageError, DaglError.
    """
    every = boxes(folder)[:limit]
    try:
        output.mkdir(parents=True, exist_ok=True)
        _check_settings(output / "settings.json", settings)
        written = []
        for image, found in enumerate(every, 1):
            path = output / f"{image:04d}.mat"
            if not path.exists():
                cells = np.empty(len(found), object)
                for i, crop in enumerate(crops(folder, image, found)):
                    cells[i] = restore(crop).clamp(0, 1).permute(1, 2, 0).contiguous().numpy()  # (h, w, 3) float32
                with replacing(path) as temporary, temporary.open("xb") as file:
                    savemat(file, {"Idenoised": cells, "israw": False, "eval_version": EVAL_VERSION})
            written.append(path)
            progress(image, len(every))
    except OSError as error:
        raise DaglError(f"{output}: {error.strerror}: choose another `output`, or make room") from None
    return written


def _check_settings(path: Path, settings: dict[str, Any]) -> None:
    text = json.dumps(settings, indent=2, sort_keys=True)
    if not path.exists():
        if any(path.parent.glob("*.mat")):
            raise UsageError(f"`output` {path.parent} holds .mat files already: choose an empty folder")
        path.write_text(text, encoding="utf-8")
    elif path.read_text(encoding="utf-8") != text:
        raise UsageError(f"`output` {path.parent} holds results of another model or setting: choose another folder")


def _open(path: Path) -> Any:
    """A MATLAB 7.3 file as h5py opens it. Raises DaglError."""
    try:
        import h5py
    except ImportError:
        raise DaglError("`dnd` needs h5py: pip install 'dagl[dnd]'") from None
    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise DaglError(f"{path}: no such file: `dnd` is the folder of the DND benchmark's data") from None
    except OSError as error:
        reason = one_line(error)
        raise DaglError(f"{path}: not a readable MATLAB 7.3 file ({reason}): download the DND data again") from None

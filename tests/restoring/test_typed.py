"""A program that uses dagl from Python, as its user's type checker sees it: mypy checks this file with `strict`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import picture
from PIL import Image
from typing_extensions import assert_type

import dagl_cli

pytestmark = pytest.mark.usefixtures("one_thread", "here")


def test_a_program_with_types() -> None:
    model = dagl_cli.load_model("dejpeg", channels=1, options=dagl_cli.Options(device="cpu"))
    assert_type(model, dagl_cli.Restorer)
    array, image, path = np.zeros((16, 16), np.uint8), Image.new("L", (16, 16)), picture("a.png")
    assert_type(dagl_cli.restore(array, "dejpeg", model=model), np.ndarray)
    assert_type(dagl_cli.restore(torch.zeros(1, 8, 8), "dejpeg", model=model), torch.Tensor)
    assert_type(dagl_cli.restore(image, "dejpeg", model=model, guarded=True), Image.Image)
    assert_type(dagl_cli.restore(path, task="dejpeg"), np.ndarray)
    assert_type(dagl_cli.restore(str(path), "dejpeg"), np.ndarray)
    assert_type(dagl_cli.restore([image, image], "dejpeg"), list[Image.Image])
    assert_type(dagl_cli.restore((array,), "dejpeg"), list[np.ndarray])
    assert_type(dagl_cli.restore([path], "dejpeg"), list[np.ndarray])
    assert_type(dagl_cli.restore([str(path)], "dejpeg"), list[np.ndarray])

    def show(done: float, total: int | None) -> None:
        print(f"{done:.1f} of {total or '?'}")

    for restored in dagl_cli.restore_iter([image], "dejpeg", progress=show):
        assert_type(restored, Image.Image)
    for restored_file in dagl_cli.restore_iter(Path().glob("*.png"), "dejpeg"):
        assert_type(restored_file, np.ndarray)
    with pytest.raises(dagl_cli.UsageError):
        dagl_cli.restore(array, "dejpeg", sigma="25")  # type: ignore[call-overload]

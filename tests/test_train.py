"""Training: repeatable, resumable to the same result, and it learns."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dagl_cli import weights
from dagl_cli.config import ModelConfig
from dagl_cli.data import Crops, load_photos
from dagl_cli.errors import UsageError, WeightsError
from dagl_cli.model import DAGL
from dagl_cli.train import TrainConfig, train

TINY = dict(features=8, blocks=2, stages=1, heads=1, head_features=4, embedding=4)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four smooth colour photographs, 64x72, one of which has two crops."""
    folder = tmp_path / "photos"
    folder.mkdir()
    y, x = np.mgrid[0:64, 0:72] / 64
    for i, name in enumerate(["a_0", "a_1", "b", "c", "d"]):
        pixels = np.stack([np.sin(3 * x + i), np.cos(4 * y * x + i), x - y], -1) * 100 + 128
        Image.fromarray(pixels.round().clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def config(photos: Path, output: Path, **changes: object) -> TrainConfig:
    settings = dict(
        task="denoise", data=[photos], output=output, model=TINY, steps=6, batch=2, crop=16, precision="fp32",
        warmup=2, save_minutes=0.0,
    )  # fmt: skip
    return TrainConfig(**(settings | changes))  # type: ignore[arg-type]


def tensors(path: Path) -> dict[str, torch.Tensor]:
    return weights.load(path)[0].state_dict()


def test_same_seed_same_weights(photos: Path, tmp_path: Path) -> None:
    first = tensors(train(config(photos, tmp_path / "1")))
    again = tensors(train(config(photos, tmp_path / "2")))
    other = tensors(train(config(photos, tmp_path / "3", seed=1)))
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert any(not torch.equal(first[k], other[k]) for k in first)


@pytest.mark.parametrize("task", ["denoise", "real", "dejpeg", "demosaic"])
def test_an_interrupted_run_resumes_to_the_same_result(photos: Path, tmp_path: Path, task: str) -> None:
    channels = 3 if task in ("demosaic", "real") else 1
    whole = tensors(train(config(photos, tmp_path / "whole", task=task, channels=channels)))

    def interrupt(row: dict[str, object]) -> None:
        if row["step"] == 3:
            raise KeyboardInterrupt

    part = config(photos, tmp_path / "part", task=task, channels=channels)
    with pytest.raises(KeyboardInterrupt):
        train(part, report=interrupt)
    assert weights.describe(part.output / "model.safetensors")[1]["step"] == 3
    resumed = tensors(train(part, resume=True))
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)


def test_it_learns(photos: Path, tmp_path: Path) -> None:
    train(config(photos, tmp_path / "run", steps=150, save_minutes=0.0005, lr=3e-3))
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    third = len(losses) // 3
    assert np.mean(losses[-third:]) < np.mean(losses[:third]) - 0.2


def test_a_run_is_never_overwritten(photos: Path, tmp_path: Path) -> None:
    run = config(photos, tmp_path / "run", steps=1)
    with pytest.raises(UsageError, match="--resume"):
        train(run, resume=True)
    train(run)
    with pytest.raises(UsageError, match="--resume"):
        train(run)


def test_resume_refuses_other_images(photos: Path, tmp_path: Path) -> None:
    run = config(photos, tmp_path / "run", steps=1)
    train(run)
    (photos / "b.png").unlink()
    with pytest.raises(UsageError, match="--data"):
        train(run, resume=True)


def test_init_from_takes_what_fits(photos: Path, tmp_path: Path) -> None:
    gray = train(config(photos, tmp_path / "gray", steps=2))
    train(config(photos, tmp_path / "color", steps=1, channels=3, init_from=gray, lr=0.0))
    color = tensors(tmp_path / "color/model.safetensors")
    assert torch.equal(color["blocks.0.conv1.weight"], tensors(gray)["blocks.0.conv1.weight"])
    fresh = json.loads((tmp_path / "color/log.jsonl").read_text().splitlines()[0])["fresh"]
    assert fresh == ["conv_in.weight", "conv_out.bias", "conv_out.weight"]
    other = tmp_path / "other.safetensors"
    weights.save(other, DAGL(shape := ModelConfig(features=4, blocks=2, stages=0)).state_dict(), shape, {})
    with pytest.raises(WeightsError, match="no tensor fits"):
        train(config(photos, tmp_path / "x", init_from=other))


def test_crops_of_one_photo_stay_on_one_side(tmp_path: Path) -> None:
    for i in range(250):
        for part in range(2):
            Image.fromarray(np.full((16, 16), i, np.uint8)).save(tmp_path / f"photo{i}_{part}.png")
    training, validation = load_photos([tmp_path], 1, 16)
    assert len(training.images) + len(validation.images) == 500
    assert validation.images
    assert not {int(p[0, 0, 0]) for p in training.images} & {int(p[0, 0, 0]) for p in validation.images}


def test_batches(photos: Path) -> None:
    training, _ = load_photos([photos], 3, 24)
    noisy, clean, sigma = Crops(training, "denoise", 16, 64, seed=0).batch()
    assert sigma is not None
    measured = (noisy - clean).std((1, 2, 3)) * 255
    assert ((measured / sigma - 1).abs() < 0.2).sum() > 40  # those saved as 8 bit lose what was clipped
    mosaic, clean, _ = Crops(training, "demosaic", 16, 4, seed=0).batch()
    assert torch.equal(mosaic[:, 1, ::2, ::2], clean[:, 1, ::2, ::2])  # GRBG
    assert mosaic[:, 0, ::2, ::2].abs().sum() == 0
    compressed, clean, _ = Crops(training, "dejpeg", 16, 32, seed=0).batch()
    error = (compressed - clean).square().mean((1, 2, 3))
    assert (error > 0).sum() > 28
    assert error.max() < 0.02  # the pair shows the same place


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": None}, "--minutes and --steps"),
        ({"crop": 15}, "--crop"),
        ({"data": [Path("nowhere")]}, "--data nowhere"),
        ({"task": "paint"}, "paint"),
        ({"crop": 512}, "no images of at least"),
    ],
)
def test_mistakes_are_named(photos: Path, tmp_path: Path, changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        train(config(photos, tmp_path / "run", **changes))

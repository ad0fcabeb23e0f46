"""Training data: which files, which crops, and what is refused."""

import hashlib
import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch
from helpers import shared
from PIL import Image

from dagl_cli import images as image
from dagl_cli.errors import UsageError
from dagl_cli.measuring import datasets
from dagl_cli.training.photos import Crops, Photos, known_pictures, load_photos, picture_hash, split


def scene(seed: int, height: int = 64, width: int = 72) -> np.ndarray:
    """A smooth colour picture, uint8 (H, W, 3), that no other seed gives."""
    rough = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), np.uint8)
    return np.asarray(Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for i in range(4):
        Image.fromarray(scene(i)).save(tmp_path / f"photo{i}.png")
    return tmp_path


def test_crops_of_one_photo_stay_on_one_side() -> None:
    training, held_out = split([Path(f"photo{i}_{part}.png") for i in range(250) for part in range(2)])
    assert len(training) + len(held_out) == 500
    assert held_out
    assert not {p.name.split("_")[0] for p in training} & {p.name.split("_")[0] for p in held_out}


def test_small_sets_hold_one_photo_out() -> None:
    assert [len(part) for part in split([Path(f"{i}.png") for i in range(8)])] == [7, 1]
    for name in ("IMG_{:04d}.jpg", "photo_{}.jpg", "DSC_{:05d}.png"):  # cameras' numbers, not crops of one photo
        training, held_out = split([Path(name.format(i)) for i in range(1, 40)])
        assert len(training) > len(held_out) > 0
    for i in range(300):  # never all
        assert split([Path(f"{i}.png")])[0]
    assert [len(part) for part in split([Path(f"{i}.png") for i in range(7)])] == [7, 0]


def test_sixteen_bits_are_kept(photos: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (40, 40, 3), np.uint16)
    (photos / "deep.png").write_bytes(imagecodecs.png_encode(pixels))
    found, _ = load_photos([photos], 3, 24)
    loaded = dict(zip(found.names, found.images))
    assert np.array_equal(loaded["deep.png"], pixels)
    assert np.array_equal(loaded["photo0.png"], scene(0).astype(np.uint16) * 257)
    (clean,) = Crops(found, "demosaic", 16, 64, seed=0)[0]
    _, floats, _ = Crops(found, "demosaic", 16, 64, seed=0).degraded((clean,), 0)
    assert floats.max() > 0.99  # the upper half of the range is no negative number
    assert floats.min() >= 0
    assert load_photos([photos], 3, 24, depth=8)[0].images[0].dtype == np.uint8


def test_photos_at_smaller_sizes(tmp_path: Path) -> None:
    stripes = np.zeros((64, 72, 3), np.uint8)
    stripes[:, ::2] = 200
    names = [f"{i}.png" for i in range(8)]
    for name in names:
        Image.fromarray(stripes).save(tmp_path / name)
    found, held_out = load_photos([tmp_path], 1, 24, scales=[0.5, 0.3])
    assert [copy.shape for copy in found.images[len(found.names) :]] == [(32, 36, 1)] * 7  # 0.3 of them is too small
    assert len(held_out.images) == 1
    assert held_out.images[0].shape == (64, 72, 1)
    (clean,) = Crops(found, "denoise", 16, 200, seed=0)[0]
    gray = (clean.float().flatten(1).std(1) < 1).float().mean()  # stripes of one pixel are gray at half their size
    assert 0.1 < gray < 0.3  # by area: a fifth
    assert (clean[clean.float().flatten(1).std(1) < 1].float() - 100).abs().max() < 9  # Lanczos at the border


def test_sizes_that_leave_no_photo_are_refused(photos: Path) -> None:
    with pytest.raises(UsageError, match=r"--scales 0\.2: no photo is 24x24 or larger"):
        load_photos([photos], 1, 24, scales=[0.2])


def test_smaller_sizes_keep_sixteen_bits(tmp_path: Path) -> None:
    ramp = np.linspace(30000, 30400, 64).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(np.tile(ramp, (64, 1))))
    Image.fromarray(scene(0)).save(tmp_path / "photo.png")
    found, _ = load_photos([tmp_path], 1, 24, scales=[0.5])
    copies = dict(zip(found.names, found.images[len(found.names) :], strict=True))
    assert copies["deep.png"].dtype == copies["photo.png"].dtype == np.uint16
    assert np.abs(copies["deep.png"][16, 2:-2, 0] - (ramp[::2] / 2 + ramp[1::2] / 2)[2:-2]).max() < 3
    assert abs(copies["photo.png"].mean() / found.images[1].mean() - 1) < 0.01


def test_what_cannot_be_used_is_left_out(photos: Path) -> None:
    Image.fromarray(scene(9, 20, 90)).save(photos / "small.png")
    (photos / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (photos / ".hidden.png").write_bytes(b"")
    found, _ = load_photos([photos, photos], 1, 24)
    assert found.names == [f"photo{i}.png" for i in range(4)]
    assert found.left_out.keys() == {"small.png", "broken.png"}
    with pytest.raises(UsageError, match="no images of at least 200x200"):
        load_photos([photos], 1, 200)


def test_files_are_found_by_the_rule_of_the_other_commands(photos: Path) -> None:
    (photos / ".thumbnails").mkdir()
    (photos / "folder.png").mkdir()
    for name in (".thumbnails/t.png", "folder.png/caf\udce9.PNG"):  # the second is not UTF-8
        Image.fromarray(scene(7)).save(photos / name, "PNG")
    assert load_photos([photos], 1, 24)[0].names == ["caf\udce9.PNG", *(f"photo{i}.png" for i in range(4))]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind root, nor Windows")
def test_folders_that_cannot_be_read_are_named(photos: Path) -> None:
    (photos / "locked").mkdir(mode=0)
    assert load_photos([photos], 1, 24)[0].left_out == {"locked": "Permission denied"}
    with pytest.raises(UsageError, match=r"of 1 left out: locked, Permission denied"):
        load_photos([photos / "locked"], 1, 24)


def test_others_are_held_out_where_those_chosen_cannot_be_used(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    _, chosen = split(paths)
    for i, path in enumerate(paths):
        Image.fromarray(scene(i, 20, 20) if path in chosen else scene(i)).save(path)
    found, held_out = load_photos([tmp_path], 1, 24)
    assert found.left_out == {path.name: "20x20 is smaller than 24x24" for path in chosen}
    assert (len(found.names), len(held_out.names)) == (11 - len(chosen), 1)


def test_test_images_are_refused(photos: Path) -> None:
    digest = hashlib.sha256((photos / "photo2.png").read_bytes()).hexdigest()
    with pytest.raises(UsageError, match=r"photo2\.png is the test image Set0/01\.png"):
        load_photos([photos], 3, 24, known={digest: "Set0/01.png"})


def test_test_images_are_refused_in_other_files(tmp_path: Path) -> None:
    original = Image.open(shared("testsets/Kodak24/05.png"))
    original.resize((384, 256), Image.Resampling.BICUBIC).save(tmp_path / "holiday.jpg", quality=80)
    with pytest.raises(UsageError, match=r"holiday\.jpg is the test image (Kodak24|LIVE1)"):
        load_photos([tmp_path], 3, 24)


def test_known_pictures_are_those_of_the_test_sets() -> None:
    hashes = known_pictures()
    assert hashes.keys() <= set(datasets.known_images().values())
    for name in ("Set12/01.png", "Kodak24/05.png"):
        assert picture_hash(image.read(shared("testsets") / name).pixels) == hashes[name]


def test_other_pictures_are_far_apart() -> None:
    hashes = [picture_hash(scene(i) / 255) for i in range(20)]
    assert min((a ^ b).bit_count() for i, a in enumerate(hashes) for b in hashes[:i]) > 60


def batches(photos: Photos, task: str, rows: slice = slice(None)) -> list[torch.Tensor]:
    crops = Crops(photos, task, 16, 6, seed=3, rows=rows)
    return [t for step in (0, 7) for t in crops.degraded(crops[step], step) if t is not None]


@pytest.mark.parametrize("task", ["denoise", "real", "dejpeg", "demosaic"])
def test_a_batch_depends_on_its_number_alone(photos: Path, task: str) -> None:
    found, _ = load_photos([photos], 3, 24)
    crops = Crops(found, task, 16, 6, seed=3)
    crops.degraded(crops[5], 5)
    assert all(torch.equal(a, b) for a, b in zip(batches(found, task), batches(found, task)))
    assert not torch.equal(crops[0][0], crops[1][0])


@pytest.mark.parametrize("task", ["denoise", "real", "dejpeg", "demosaic"])
def test_processes_share_a_batch(photos: Path, task: str) -> None:
    found, _ = load_photos([photos], 3, 24)
    whole = batches(found, task)
    parts = zip(*(batches(found, task, rows) for rows in (slice(0, 2), slice(2, 6))))
    for together, part in zip(whole, parts):
        torch.testing.assert_close(torch.cat(part), together, rtol=0, atol=1e-7)


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork.*:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
def test_workers_change_nothing(photos: Path) -> None:
    crops = Crops(load_photos([photos], 3, 24)[0], "dejpeg", 16, 4, seed=0)
    for (step, alone), (same, helped), _ in zip(crops.ahead(5), crops.ahead(5, workers=2), range(5)):
        assert step == same
        assert all(torch.equal(a, b) for a, b in zip(alone, helped))


def test_crops_are_whole_turns_of_the_photo() -> None:
    """Every crop is somewhere in the photo, in one of the eight orientations, and all of them occur."""
    pixels = np.arange(20 * 24, dtype=np.uint16).reshape(20, 24, 1)
    (clean,) = Crops(Photos([pixels], ["a"]), "demosaic", 16, 200, seed=0)[0]
    seen = set()
    for crop in clean[..., 0].numpy():
        down, right = int(crop[1, 0] - crop[0, 0]), int(crop[0, 1] - crop[0, 0])
        assert {abs(down), abs(right)} == {1, 24}
        top, left = divmod(int(crop.min()), 24)
        assert sorted(crop.flatten()) == sorted(pixels[top : top + 16, left : left + 16].flatten())
        seen.add((down, right, top, left))
    assert len({turn[:2] for turn in seen}) == 8
    assert {turn[2] for turn in seen} == set(range(5))
    assert {turn[3] for turn in seen} == set(range(9))


def test_gathered_crops_are_sliced_ones(photos: Path) -> None:
    crops = Crops(load_photos([photos], 3, 24)[0], "denoise", 16, 32, seed=0, rows=slice(8, 32))
    places = np.arange(32) % 4, np.arange(32), np.arange(32) + 9, np.arange(32) % 8
    assert torch.equal(crops._gather(*places), crops._slice(*places))


def test_degradations(photos: Path) -> None:
    found, _ = load_photos([photos], 3, 24)

    def batch(task: str, **settings: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        crops = Crops(found, task, 16, 64, seed=0, **settings)  # type: ignore[arg-type]
        return crops.degraded(crops[0], 0)

    noisy, clean, sigma = batch("denoise")
    assert sigma is not None
    measured = (noisy - clean).std((1, 2, 3)) * 255
    assert ((measured / sigma - 1).abs() < 0.2).sum() > 40  # those saved as 8 bit lose what was clipped
    noisy, clean, sigma = batch("denoise", sigma=25.0)
    assert sigma is not None
    assert set(sigma.tolist()) == {25.0}
    assert float((noisy - clean).std()) * 255 == pytest.approx(25, rel=0.02)
    same, _, told = batch("denoise", sigma=25.0, sigma_error=0.2)
    assert told is not None
    assert torch.equal(same, noisy)
    assert 20 <= told.min() < 21.5 < 28.5 < told.max() <= 30
    assert 16 < (told == 25).sum() < 48
    mosaic, clean, _ = batch("demosaic")
    assert torch.equal(mosaic[:, 1, ::2, ::2], clean[:, 1, ::2, ::2])  # GRBG
    assert mosaic[:, 0, ::2, ::2].abs().sum() == 0
    for task, least, most in (("dejpeg", 56, 0.02), ("real", 64, 0.1)):
        degraded, clean, _ = batch(task)
        error = (degraded - clean).square().mean((1, 2, 3))
        assert (error > 0).sum() >= least
        assert error.max() < most  # the pair shows the same place
        assert torch.equal(degraded, (degraded * 255).round() / 255)  # as a file would have it

"""Training data: which files, which crops, and what is refused."""

import hashlib
import os
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from helpers import scene, shared
from PIL import Image

from dagl_cli import images as image
from dagl_cli.errors import UsageError
from dagl_cli.measuring import datasets
from dagl_cli.measuring.datasets import known_pictures
from dagl_cli.training.crops import Crops
from dagl_cli.training.photos import hold_out, load_photos, picture_hash


def test_crops_of_one_photo_stay_on_one_side() -> None:
    training, held_out = hold_out([Path(f"photo{i}_{part}.png") for i in range(250) for part in range(2)])
    assert len(training) + len(held_out) == 500
    assert held_out
    assert not {p.name.split("_")[0] for p in training} & {p.name.split("_")[0] for p in held_out}


def test_small_sets_hold_one_photo_out() -> None:
    assert [len(part) for part in hold_out([Path(f"{i}.png") for i in range(8)])] == [7, 1]
    for name in ("IMG_{:04d}.jpg", "photo_{}.jpg", "DSC_{:05d}.png"):  # cameras' numbers, not crops of one photo
        training, held_out = hold_out([Path(name.format(i)) for i in range(1, 40)])
        assert len(training) > len(held_out) > 0
    for i in range(300):  # never all
        assert hold_out([Path(f"{i}.png")])[0]
    assert [len(part) for part in hold_out([Path(f"{i}.png") for i in range(7)])] == [7, 0]


def test_sixteen_bits_are_kept(scenes: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 65536, (40, 40, 3), np.uint16)
    (scenes / "deep.png").write_bytes(imagecodecs.png_encode(pixels))
    found, _ = load_photos([scenes], 3, 24)
    loaded = dict(zip(found.names, found.images))
    assert np.array_equal(loaded["deep.png"], pixels)
    assert np.array_equal(loaded["photo0.png"], scene(0).astype(np.uint16) * 257)
    (clean,) = Crops(found, "demosaic", 16, 64, seed=0)[0]
    _, floats, _ = Crops(found, "demosaic", 16, 64, seed=0).degraded((clean,), 0)
    assert floats.max() > 0.99  # the upper half of the range is no negative number
    assert floats.min() >= 0
    assert load_photos([scenes], 3, 24, depth=8)[0].images[0].dtype == np.uint8


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


def test_sizes_that_leave_no_photo_are_refused(scenes: Path) -> None:
    with pytest.raises(UsageError, match=r"`scales` 0\.2: no photo is 24x24 or larger"):
        load_photos([scenes], 1, 24, scales=[0.2])


def test_smaller_sizes_keep_sixteen_bits(tmp_path: Path) -> None:
    ramp = np.linspace(30000, 30400, 64).astype(np.uint16)
    (tmp_path / "deep.png").write_bytes(imagecodecs.png_encode(np.tile(ramp, (64, 1))))
    Image.fromarray(scene(0)).save(tmp_path / "photo.png")
    found, _ = load_photos([tmp_path], 1, 24, scales=[0.5])
    copies = dict(zip(found.names, found.images[len(found.names) :], strict=True))
    assert copies["deep.png"].dtype == copies["photo.png"].dtype == np.uint16
    assert np.abs(copies["deep.png"][16, 2:-2, 0] - (ramp[::2] / 2 + ramp[1::2] / 2)[2:-2]).max() < 3
    assert abs(copies["photo.png"].mean() / found.images[1].mean() - 1) < 0.01


def test_what_cannot_be_used_is_left_out(scenes: Path) -> None:
    Image.fromarray(scene(9, 20, 90)).save(scenes / "small.png")
    (scenes / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (scenes / ".hidden.png").write_bytes(b"")
    found, _ = load_photos([scenes, scenes], 1, 24)
    assert found.names == [f"photo{i}.png" for i in range(4)]
    assert found.left_out.keys() == {"small.png", "broken.png"}
    with pytest.raises(UsageError, match="no images of at least 200x200"):
        load_photos([scenes], 1, 200)


def test_files_are_found_by_the_rule_of_the_other_commands(scenes: Path) -> None:
    (scenes / ".thumbnails").mkdir()
    (scenes / "folder.png").mkdir()
    for name in (".thumbnails/t.png", "folder.png/caf\udce9.PNG"):  # the second is not UTF-8
        Image.fromarray(scene(7)).save(scenes / name, "PNG")
    assert load_photos([scenes], 1, 24)[0].names == ["caf\udce9.PNG", *(f"photo{i}.png" for i in range(4))]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind root, nor Windows")
def test_folders_that_cannot_be_read_are_named(scenes: Path) -> None:
    (scenes / "locked").mkdir(mode=0)
    assert load_photos([scenes], 1, 24)[0].left_out == {"locked": "Permission denied"}
    with pytest.raises(UsageError, match=r"of 1 left out: locked, Permission denied"):
        load_photos([scenes / "locked"], 1, 24)


def test_others_are_held_out_where_those_chosen_cannot_be_used(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(12)]
    _, chosen = hold_out(paths)
    for i, path in enumerate(paths):
        Image.fromarray(scene(i, 20, 20) if path in chosen else scene(i)).save(path)
    found, held_out = load_photos([tmp_path], 1, 24)
    assert found.left_out == {path.name: "20x20 is smaller than 24x24" for path in chosen}
    assert (len(found.names), len(held_out.names)) == (11 - len(chosen), 1)


def test_test_images_are_refused(scenes: Path) -> None:
    digest = hashlib.sha256((scenes / "photo2.png").read_bytes()).hexdigest()
    with pytest.raises(UsageError, match=r"photo2\.png is the test image Set0/01\.png"):
        load_photos([scenes], 3, 24, known={digest: "Set0/01.png"})


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

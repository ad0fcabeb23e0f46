"""Camera raw files: DNG files made here from a known picture come back as that picture."""

from __future__ import annotations

import builtins
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import tifffile
import torch
import torch.nn.functional as F
from helpers import ROOT, dagl, refused, tiny
from helpers import saved as saved_weights

from dagl_cli import images as image
from dagl_cli.config import BAYER_PATTERNS, Options
from dagl_cli.degrade import bayer_masks
from dagl_cli.errors import DaglError, ImageError
from dagl_cli.images import exif as image_exif
from dagl_cli.images import raw
from dagl_cli.images.colour import srgb_decode, srgb_encode
from dagl_cli.measuring.metrics import psnr
from dagl_cli.restoring.file import FileRestorer
from dagl_cli.restoring.rawnoise import estimated_profile, level_map, typical_read
from dagl_cli.store import weights

rawpy = pytest.importorskip("rawpy")
pytestmark = pytest.mark.usefixtures("bundled")

CAMERA_FROM_XYZ = np.array([[0.8924, -0.1041, -0.1760], [-0.4351, 1.2048, 0.2569], [-0.0505, 0.1562, 0.6934]])
BLACK, WHITE, NEUTRAL = (500, 520, 540, 560), 15000, (0.5, 1.0, 0.65)
LIMIT = 10**9


def camera_from_srgb() -> np.ndarray:
    """Linear sRGB -> white balanced camera colours."""
    matrix = CAMERA_FROM_XYZ @ raw._XYZ_FROM_SRGB
    return matrix / matrix.sum(1, keepdims=True)


def scene(height: int = 48, width: int = 64) -> np.ndarray:
    """(height, width, 3) sRGB in [0, 1]: smooth, so that interpolation is nearly exact; no two corners alike."""
    y, x = np.mgrid[:height, :width] / np.array([height, width]).reshape(2, 1, 1)
    return np.stack([0.3 + 0.4 * x, 0.3 + 0.3 * y, 0.55 - 0.2 * x * y], -1)


def exposed(
    picture: np.ndarray, pattern: str = "RGGB", black: Any = BLACK, white: Any = WHITE, neutral: Any = NEUTRAL
) -> np.ndarray:
    """What a sensor records of a picture: (H, W) levels. black: of the cell's four samples, row by row."""
    camera = (srgb_decode(picture) @ camera_from_srgb().T) * neutral
    levels = np.empty(picture.shape[:2])
    for i, colour in enumerate(pattern):
        cell = np.s_[i // 2 :: 2, i % 2 :: 2]
        levels[cell] = black[i] + camera[cell][..., "RGB".index(colour)] * (white - black[i])
    return np.rint(levels.clip(0, white)).astype(np.uint16)


def dng(
    levels: np.ndarray,
    pattern: str = "RGGB",
    black: Any = BLACK,
    white: int = WHITE,
    neutral: tuple[float, ...] | None = NEUTRAL,
    orientation: int = 1,
    area: tuple[int, ...] | None = None,
    without: tuple[int, ...] = (),
    more: Sequence[tuple[Any, ...]] = (),
) -> bytes:
    """An uncompressed DNG. neutral None: no white balance; area: (top, left, bottom, right) that is seen.

    without: numbers of tags to leave out; more: tags to add or put in the place of others.
    """
    signed = [int(n) for v in CAMERA_FROM_XYZ.flat for n in (round(v * 10000), 10000)]
    tags: list[tuple[Any, ...]] = [
        (271, "s", 0, "Maker", True),
        (272, "s", 0, "Camera", True),
        (274, "H", 1, orientation, True),
        (33421, "H", 2, (2, 2), True),
        (33422, "B", 4, bytes("RGB".index(c) for c in pattern), True),
        (50706, "B", 4, bytes([1, 4, 0, 0]), True),
        (50708, "s", 0, "Maker Camera", True),
        (50713, "H", 2, (2, 2), True),
        (50714, "H", 4, black, True),
        (50717, "I", 1, white, True),
        (50721, "2i", 9, signed, True),
        (50778, "H", 1, 21, True),
        *more,
    ]
    if neutral is not None:
        tags.append((50728, "2I", 3, [int(n) for v in neutral for n in (round(v * 10000), 10000)], True))
    if area is not None:
        tags.append((50829, "I", 4, area, True))
    left_out = {tag[0] for tag in more} | set(without)
    tags = [tag for tag in tags if tag in more or tag[0] not in left_out]
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, levels, photometric="cfa", extratags=tags, metadata=None, software=False)
    return buffer.getvalue()


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def bilinear(negative: raw.Raw) -> np.ndarray:
    """(H, W, 3): a plain demosaicing, for smooth scenes."""
    masks = bayer_masks(negative.mosaic.shape[0], negative.mosaic.shape[1], negative.pattern).double()
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]], dtype=torch.float64).expand(3, 1, 3, 3)

    def spread(x: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x[None], kernel, padding=1, groups=3)[0]

    filled = spread(torch.from_numpy(negative.mosaic).double() * masks) / spread(masks)
    return filled.permute(1, 2, 0).numpy()


def inner(a: np.ndarray, b: np.ndarray) -> float:
    return psnr(a.transpose(2, 0, 1), b.transpose(2, 0, 1), crop=2)


@pytest.mark.parametrize("pattern", BAYER_PATTERNS)
def test_the_picture_comes_back_in_every_pattern(tmp_path: Path, pattern: str) -> None:
    """Black levels that differ in each sample of the cell, white balance and matrix are all undone."""
    picture = scene()
    path = saved(tmp_path / "a.dng", dng(exposed(picture, pattern), pattern))
    negative = raw.read(path, max_pixels=LIMIT)
    assert negative.pattern == pattern
    assert "as shot" in negative.summary
    assert "0.0 % of the samples are white" in negative.summary
    assert inner(raw.develop(bilinear(negative), negative), picture) > 55


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_like_exif(tmp_path: Path, orientation: int) -> None:
    picture = scene()
    path = saved(tmp_path / "a.dng", dng(exposed(picture), orientation=orientation))
    negative = raw.read(path, max_pixels=LIMIT)
    developed = raw.develop(bilinear(negative), negative)
    # the same tag on an ordinary picture, as image.read turns it
    exif = PIL.Image.Exif()
    exif[274] = orientation
    levels = np.rint(picture * 65535).astype(np.uint16)
    buffer = io.BytesIO()
    image.write(image.Image((levels / 65535).astype(np.float32), depth=16, exif=exif.tobytes()[6:]), buffer)
    upright = image.read(buffer.getvalue()).pixels
    assert developed.shape == upright.shape
    assert inner(developed, upright) > 55


def test_only_the_visible_area_is_used(tmp_path: Path) -> None:
    picture = scene(40, 50)
    levels = np.zeros((60, 70), np.uint16)  # the margins are black, as those of a sensor are
    levels[6:46, 8:58] = exposed(picture, "GBRG")
    negative = raw.read(saved(tmp_path / "a.dng", dng(levels, "GBRG", area=(6, 8, 46, 58))), max_pixels=LIMIT)
    assert negative.mosaic.shape == (40, 50)
    assert inner(raw.develop(bilinear(negative), negative), picture) > 55


def test_an_odd_margin_changes_the_pattern_with_it(tmp_path: Path) -> None:
    levels = exposed(scene(41, 51))
    path = saved(tmp_path / "a.dng", dng(levels, "RGGB", area=(3, 5, 41, 51)))  # the cell starts at the margin
    negative = raw.read(path, max_pixels=LIMIT)
    with rawpy.imread(str(path)) as file:
        top, left = file.sizes.top_margin, file.sizes.left_margin
        shifted = {(0, 0): "RGGB", (0, 1): "GRBG", (1, 0): "GBRG", (1, 1): "BGGR"}
        assert negative.pattern == shifted[(top - 3) % 2, (left - 5) % 2]
        assert negative.mosaic.shape == (41 - top, 51 - left)


def test_burnt_out_areas_are_white(tmp_path: Path) -> None:
    """The gains of red and blue would make them magenta."""
    levels = np.full((32, 32), WHITE, np.uint16)
    negative = raw.read(saved(tmp_path / "a.dng", dng(levels)), max_pixels=LIMIT)
    assert "100.0 % of the samples are white" in negative.summary
    assert raw.develop(bilinear(negative), negative) == pytest.approx(1, abs=1e-6)


def test_gray_stays_gray_and_noise_below_black_is_black(tmp_path: Path) -> None:
    gray = np.full((32, 32, 3), 0.5)
    negative = raw.read(saved(tmp_path / "a.dng", dng(exposed(gray))), max_pixels=LIMIT)
    assert raw.develop(bilinear(negative), negative) == pytest.approx(0.5, abs=1e-3)
    negative = raw.read(saved(tmp_path / "b.dng", dng(np.full((32, 32), 100, np.uint16))), max_pixels=LIMIT)
    assert not negative.mosaic.any()


def test_without_white_balance_it_is_daylight(tmp_path: Path) -> None:
    negative = raw.read(saved(tmp_path / "a.dng", dng(exposed(scene()), neutral=None)), max_pixels=LIMIT)
    assert "for daylight (none in the file)" in negative.summary
    # daylight is white in sRGB: the matrix of this camera says how it sees it
    daylight = raw._XYZ_FROM_SRGB.sum(1) @ CAMERA_FROM_XYZ.T
    gray = np.full((32, 32, 3), 0.5)
    levels = exposed(gray, neutral=daylight / daylight.max())
    negative = raw.read(saved(tmp_path / "b.dng", dng(levels, neutral=None)), max_pixels=LIMIT)
    developed = raw.develop(bilinear(negative), negative)
    assert np.ptp(developed.mean((0, 1))) < 0.005


def test_without_a_colour_matrix_it_is_told(tmp_path: Path) -> None:
    data = dng(exposed(scene()), neutral=None, without=(50721, 50778))
    negative = raw.read(saved(tmp_path / "a.dng", data), max_pixels=LIMIT)
    assert "no colour matrix" in negative.summary
    assert negative.matrix.tolist() == np.eye(3).tolist()


CANON = [(271, "s", 0, "Canon", True), (272, "s", 0, "Canon EOS 5D", True), (50708, "s", 0, "Canon EOS 5D", True)]


@pytest.mark.parametrize(
    "options",
    [{}, {"orientation": 7}, {"more": CANON}, {"more": CANON, "without": (50721,)}],
    ids=["file's matrix", "turned", "file's matrix, known camera", "LibRaw's matrix"],
)
def test_colours_agree_with_libraw(tmp_path: Path, options: dict[str, Any]) -> None:
    """Levels, white balance, matrix and curve against LibRaw's own development, on a smooth scene."""
    path = saved(tmp_path / "a.dng", dng(exposed(scene(120, 160), "GRBG"), "GRBG", **options))
    negative = raw.read(path, max_pixels=LIMIT)
    with rawpy.imread(str(path)) as file:
        theirs = file.postprocess(
            use_camera_wb=True, no_auto_bright=True, adjust_maximum_thr=0, gamma=(2.4, 12.92), output_bps=16,
            demosaic_algorithm=rawpy.DemosaicAlgorithm.LINEAR, highlight_mode=rawpy.HighlightMode.Clip,
        )  # fmt: skip
    ours = raw.develop(bilinear(negative), negative)
    assert np.abs(ours - theirs / 65535)[4:-4, 4:-4].max() < 0.003


def test_the_curve_and_its_inverse() -> None:
    values = np.linspace(0, 1, 1001)
    assert srgb_encode(srgb_decode(values)) == pytest.approx(values, abs=1e-6)
    assert srgb_encode(np.array([0, 0.0031308, 0.214041, 1])) == pytest.approx([0, 0.04045, 0.5, 1], abs=1e-5)


# --- what is refused -------------------------------------------------------------------------------------------------


def refusal(path: Path, max_pixels: int = LIMIT) -> str:
    with pytest.raises(ImageError) as caught:
        raw.read(path, max_pixels=max_pixels)
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(f"cannot read {path}: ")
    return text


def test_other_sensors_are_refused(tmp_path: Path) -> None:
    levels = np.full((60, 60), 5000, np.uint16)
    six = [(33421, "H", 2, (6, 6), True), (33422, "B", 36, bytes([1, 1, 0, 1, 1, 2] * 6), True)]
    assert "every 6 pixels (X-Trans)" in refusal(saved(tmp_path / "x.dng", dng(levels, more=six)))
    quad = [(33421, "H", 2, (4, 4), True), (33422, "B", 16, bytes([0, 0, 1, 1] * 2 + [1, 1, 2, 2] * 2), True)]
    assert "no Bayer pattern" in refusal(saved(tmp_path / "q.dng", dng(levels, more=quad)))
    four = [(33422, "B", 4, bytes([0, 1, 2, 3]), True), (50710, "B", 4, bytes([0, 1, 2, 3]), True)]
    assert "no Bayer pattern" in refusal(saved(tmp_path / "f.dng", dng(levels, more=four)))
    stripes = [(33422, "B", 4, bytes([0, 1, 2, 1]), True)]
    assert "no Bayer pattern" in refusal(saved(tmp_path / "s.dng", dng(levels, more=stripes)))
    oblong = [(50718, "2I", 2, [1, 1, 2, 1], True)]  # DefaultScale
    assert "not square" in refusal(saved(tmp_path / "o.dng", dng(levels, more=oblong)))


def test_linear_dng_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    tags = [(50706, "B", 4, bytes([1, 4, 0, 0]), True), (50708, "s", 0, "Maker Camera", True)]
    levels = np.full((400, 400, 3), 500, np.uint16)
    tifffile.imwrite(buffer, levels, photometric="linear_raw", extratags=tags, metadata=None)
    assert "all colours" in refusal(saved(tmp_path / "a.dng", buffer.getvalue()))


@pytest.mark.parametrize("size", [0, 3, 200, 500, 3000, -1])
def test_truncated_files_are_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str], size: int) -> None:
    data = dng(exposed(scene()))
    refusal(saved(tmp_path / "a.dng", data[:size]))
    assert capfd.readouterr() == ("", "")


def test_fake_and_missing_files(tmp_path: Path) -> None:
    (tmp_path / "a.dng").write_bytes(b"not a picture" * 100)
    assert "not a Bayer raw file" in refusal(tmp_path / "a.dng")
    PIL.Image.new("RGB", (30, 20)).save(tmp_path / "b.nef", "PNG")
    assert "not a Bayer raw file" in refusal(tmp_path / "b.nef")
    assert "no such file" in refusal(tmp_path / "c.dng")
    assert "white level" in refusal(saved(tmp_path / "d.dng", dng(exposed(scene()), white=400)))


def test_the_limit_is_checked_by_the_header(tmp_path: Path) -> None:
    assert "48 = 3,072 pixels" in refusal(saved(tmp_path / "a.dng", dng(exposed(scene()))), max_pixels=3000)


def test_missing_rawpy_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without_rawpy(name: str, *arguments: object, **options: object) -> object:
        if name == "rawpy":
            raise ModuleNotFoundError(name)
        return real(name, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_rawpy)
    with pytest.raises(DaglError, match=r"pip install 'dagl\[raw\]'") as caught:
        raw.read(tmp_path / "a.dng", max_pixels=LIMIT)
    assert caught.value.exit_code == 1


# --- the whole way ---------------------------------------------------------------------------------------------------


def test_a_file_becomes_a_16_bit_picture(tmp_path: Path) -> None:
    """EXIF, without maker notes and upright; sRGB's profile; TIFF by default, PNG on demand, JPEG never."""
    more = [(306, "s", 0, "2024:05:06 07:08:09", True)]
    source = saved(tmp_path / "photo.dng", dng(exposed(scene()), orientation=6, more=more))
    restorer = FileRestorer("demosaic", options=Options("cpu"))
    for name in ("photo.tif", "photo.png"):
        report = restorer(source, tmp_path / name)
        assert report.status == "restored"
        assert "RGGB, white balance as shot" in str(report.note)
        result = image.read(tmp_path / name)
        assert (result.depth, result.pixels.shape, result.icc) == (16, (64, 48, 3), image.srgb_profile())
        kept = PIL.Image.Exif()
        kept.load(result.exif or b"")
        assert (kept[271], kept[272], kept[306], kept[274]) == ("Maker", "Camera", "2024:05:06 07:08:09", 1)
    with pytest.raises(ImageError, match="16 bits per sample"):
        restorer(source, tmp_path / "photo.jpg")
    stream = io.BytesIO()
    restorer(source, stream)
    assert stream.getvalue() == (tmp_path / "photo.tif").read_bytes()


def test_maker_notes_and_the_raw_size_are_left_out(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[34665] = {33434: (1, 125), 37500: b"notes" * 9, 40962: 64}
    tifffile.imwrite(buffer := io.BytesIO(), np.zeros((4, 4), np.uint8), byteorder="<", metadata=None)
    image_exif.add_to_tiff(buffer, exif.tobytes()[6:])
    kept = PIL.Image.Exif()
    kept.load(image.raw_exif(saved(tmp_path / "a.dng", buffer.getvalue())) or b"")
    assert set(kept.get_ifd(34665)) == {33434}
    assert image.raw_exif(saved(tmp_path / "b.raf", b"FUJIFILM")) is None


def test_the_bundled_network_recovers_a_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real weights
    photo = np.asarray(PIL.Image.open(ROOT / "tests/data/osprey-noisy.png").convert("RGB").reduce(2))
    light = srgb_decode(photo[40:136, 40:136] / 255.0) * 0.7  # so that no sample is clipped
    picture = srgb_encode(light)
    path = saved(tmp_path / "a.dng", dng(exposed(picture, "GRBG"), "GRBG"))
    FileRestorer("demosaic", options=Options("cpu"))(path, tmp_path / "a.tif")
    plain = raw.read(path, max_pixels=LIMIT)
    ours = inner(image.read(tmp_path / "a.tif").pixels, picture)
    assert ours > inner(raw.develop(bilinear(plain), plain), picture) + 1


def test_eight_turns_know_the_pattern(tmp_path: Path) -> None:
    """With a network that changes nothing, a turned mosaic must come back to its place in each of them."""
    path = saved(tmp_path / "a.dng", dng(exposed(scene(), "GBRG"), "GBRG"))
    results = []
    for ensemble in (False, True):
        options = Options("cpu", ensemble=ensemble)
        FileRestorer("demosaic", options=options)(path, tmp_path / f"{ensemble}.tif")
        results.append(image.read(tmp_path / f"{ensemble}.tif").pixels)
    assert results[0] == pytest.approx(results[1], abs=2 / 65535)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Raw files become .tif; the camera's JPEG of one is no mosaic; only demosaic takes raw files."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "card"
    folder.mkdir()
    saved(folder / "1.DNG", dng(exposed(scene())))
    saved(folder / "2.nef", b"damaged")
    PIL.Image.new("RGB", (8, 8)).save(folder / "1.JPG")
    PIL.Image.new("L", (8, 8)).save(folder / "3.png")
    _, stderr = dagl("demosaic", "card", code=3)
    assert "Error: cannot read card/2.nef: it is damaged, truncated or no raw file" in stderr
    assert sorted(p.name for p in (tmp_path / "card_rgb").iterdir()) == ["1.tif", "3.png"]
    _, stderr = dagl("dejpeg", "card")
    assert sorted(p.name for p in (tmp_path / "card_dejpeg").iterdir()) == ["1.JPG", "3.png"]
    dagl("demosaic", "card/1.DNG")
    assert (folder / "1_rgb.tif").is_file()
    dagl("demosaic", "card/1.DNG", "-o", "results")
    assert (tmp_path / "results/1.tif").is_file()


def test_two_raw_files_of_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As converters to DNG leave them: the first is developed, the other one is reported, and the others go on."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "card").mkdir()
    for name in ("1.dng", "1.nef", "2.dng"):
        saved(tmp_path / "card" / name, dng(exposed(scene())))
    _, stderr = dagl("demosaic", "card", code=3)
    assert "card/1.nef: its result would have the name of that of 1.dng beside it" in stderr
    assert sorted(p.name for p in (tmp_path / "card_rgb").iterdir()) == ["1.tif", "2.tif"]


def test_other_commands_name_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = saved(tmp_path / "a.dng", dng(exposed(scene())))
    remedy = "run `dagl restore` or `dagl demosaic` on it"
    assert refused("denoise", path, code=1) == f"Error: {path} is a camera raw file: {remedy}\n"
    assert not (tmp_path / "a_denoised.tif").exists()


def test_a_raw_file_by_another_name(tmp_path: Path) -> None:
    data = dng(exposed(scene()))
    with pytest.raises(ImageError, match="camera raw file: give its path"):
        image.read(data)


@pytest.mark.parametrize("area", [None, (4, 6, 44, 58)])
def test_a_black_level_that_varies_over_more_than_the_cell(tmp_path: Path, area: tuple[int, ...] | None) -> None:
    """Over 4x4 samples, and by row and column: LibRaw says one number for all."""
    picture = scene(48, 64)
    black = 500 + 40 * np.arange(16).reshape(4, 4)
    across, down = np.arange(64) % 7, 3 * (np.arange(48) % 5)
    top, left = area[:2] if area else (0, 0)
    row, column = np.arange(48) - top, np.arange(64) - left
    whole = (black[row[:, None] % 4, column % 4] + across[column][None] + down[row][:, None]).astype(float)
    levels = exposed(picture, black=(0, 0, 0, 0))
    levels = np.rint(whole + levels * (1 - whole / WHITE)).astype(np.uint16)
    pairs = [[int(n) for v in values for n in (v, 1)] for values in (across, down)]
    more = [
        (50713, "H", 2, (4, 4), True),
        (50714, "H", 16, tuple(int(v) for v in black.flat), True),
        (50715, "2i", 64, pairs[0], True),
        (50716, "2i", 48, pairs[1], True),
    ]
    negative = raw.read(saved(tmp_path / "a.dng", dng(levels, area=area, more=more)), max_pixels=LIMIT)
    expected = picture if area is None else picture[4:44, 6:58]
    assert inner(raw.develop(bilinear(negative), negative), expected) > 55


def test_what_libraw_says_does_not_leak(tmp_path: Path) -> None:
    data = dng(exposed(scene()))
    for damaged in (data[:300], data[:5000], b"II*\0" + bytes(100)):
        with pytest.raises(ImageError) as caught:
            raw.read(saved(tmp_path / "a.dng", damaged), max_pixels=LIMIT)
        assert str(caught.value).count("(") == 0


def profiled(shot: float, read: float) -> bytes:
    return dng(exposed(scene(96, 128)), more=[(51041, "d", 2, (shot, read), True)])


def noisy_dng(shot: float, read: float, size: tuple[int, int] = (96, 128)) -> bytes:
    levels = exposed(scene(*size))
    black = np.tile(np.reshape(BLACK, (2, 2)), (size[0] // 2, size[1] // 2))
    light = (levels - black) / (WHITE - black)
    noise = np.random.default_rng(0).standard_normal(light.shape) * np.sqrt(shot * light + read)
    return dng(np.rint((light + noise) * (WHITE - black) + black).clip(0, WHITE).astype(np.uint16))


def test_the_noise_profile_tells_the_level_of_every_sample(tmp_path: Path) -> None:
    shot, read = 0.0004, 1e-6
    clean = raw.read(saved(tmp_path / "a.dng", profiled(shot, read)), max_pixels=LIMIT)
    assert clean.noise is not None
    np.testing.assert_allclose(clean.noise[0, 0], (shot / NEUTRAL[0], read / NEUTRAL[0] ** 2), rtol=1e-3)  # red
    np.testing.assert_allclose(clean.noise[0, 1], (shot, read), rtol=1e-3)
    np.testing.assert_allclose(clean.gains[0], (1 / NEUTRAL[0], 1), rtol=1e-3)

    noisy = raw.read(saved(tmp_path / "b.dng", noisy_dng(shot, read)), max_pixels=LIMIT)
    assert noisy.noise is None
    error = 255 * np.abs(noisy.mosaic - clean.mosaic)
    levels = level_map(torch.from_numpy(noisy.mosaic), clean.noise).numpy()
    ratio = error / levels * np.sqrt(np.pi / 2)  # 1 in the mean, of Gaussian noise
    for part in (ratio[0::2, 0::2], ratio[0::2, 1::2], ratio[1::2, 1::2], ratio[noisy.mosaic < 0.4]):
        assert part.mean() == pytest.approx(1, abs=0.15)


def test_the_noise_of_a_mosaic_is_estimated(tmp_path: Path) -> None:
    shot = 0.001
    noisy = raw.read(saved(tmp_path / "b.dng", noisy_dng(shot, typical_read(shot), (240, 320))), max_pixels=LIMIT)
    found = estimated_profile(noisy.mosaic, noisy.pattern, noisy.gains)
    assert found is not None
    np.testing.assert_allclose(found[..., 0], shot * noisy.gains, rtol=0.4)
    assert estimated_profile(noisy.mosaic[:36, :36], noisy.pattern, noisy.gains) is None
    light = 0.01 * np.ones((240, 320))  # a night: the noise reaches below black, where files are cut off
    dark = light + np.random.default_rng(1).standard_normal(light.shape) * np.sqrt(0.01 * light + typical_read(0.01))
    assert 0.05 < (dark <= 0).mean() < 0.6
    found = estimated_profile(srgb_encode(dark.clip(0, 1)).astype(np.float32), "RGGB", np.ones((2, 2)))
    assert found is not None
    np.testing.assert_allclose(found[..., 0], 0.01, rtol=0.4)
    even = estimated_profile(np.full((96, 96), 0.5, np.float32), "RGGB", np.ones((2, 2)))
    assert even is not None
    assert even[..., 0].max() < 1e-7, "no noise"


def test_raw_files_are_restored_at_the_level_of_their_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights_of = tmp_path / "weights"
    weights_of.mkdir()
    for task, shift in (("demosaic", 0.0), ("raw", 0.02)):
        saved_weights(weights_of / f"{task}-color.safetensors", tiny(task, 3, shift, graph=False))
    monkeypatch.setattr(weights, "folder", lambda: weights_of)
    path = saved(tmp_path / "a.dng", profiled(0.004, 1e-5))
    for restorer in (FileRestorer("restore"), FileRestorer("raw")):
        outcome = restorer(path, tmp_path / "out.tif", overwrite=True)
        assert outcome.model == "raw-color"
        assert "the file's noise profile" in str(outcome.note)
        assert outcome.sigma == pytest.approx(12, rel=0.3)
        assert image.read(tmp_path / "out.tif").depth == 16
        assert restorer.examine(path, tmp_path / "out.tif").sigma == outcome.sigma
    without = FileRestorer("restore")(saved(tmp_path / "b.dng", noisy_dng(0.004, 1e-5)), tmp_path / "b.tif")
    assert "an estimate" in str(without.note)
    assert without.sigma == pytest.approx(outcome.sigma, rel=0.3)
    FileRestorer("restore", options=Options(strength=0.0))(path, tmp_path / "none.tif")
    plain = FileRestorer("demosaic")(path, tmp_path / "plain.tif")
    assert (plain.model, plain.sigma) == ("demosaic-color", None)
    pictures = {name: image.read(tmp_path / f"{name}.tif").pixels for name in ("out", "none", "plain")}
    assert np.abs(pictures["none"] - pictures["plain"]).max() < 1e-4, "strength 0: only demosaiced"
    assert np.abs(pictures["out"] - pictures["plain"]).max() > 0.01
    tiny_file = saved(tmp_path / "c.dng", dng(exposed(scene(36, 36))))
    assert "too small or too dark to find noise in" in str(FileRestorer("restore")(tiny_file, tmp_path / "c.tif").note)


@pytest.mark.parametrize("more", [(51041, "d", 2, (float("nan"), 0.0), True), (51041, "s", 0, "no numbers", True)])
def test_a_noise_profile_that_makes_no_sense_is_none(tmp_path: Path, more: tuple[object, ...]) -> None:
    path = saved(tmp_path / "a.dng", dng(exposed(scene()), more=[more]))
    assert raw.read(path, max_pixels=LIMIT).noise is None

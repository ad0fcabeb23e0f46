"""From a file or an array to a restored one: nothing lost on the way, and a way on when memory runs out."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from helpers import noting, saved, tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

import dagl_cli
from dagl_cli import degrade
from dagl_cli import images as image
from dagl_cli.config import BAYER_PATTERNS, Options
from dagl_cli.errors import DaglError, ImageError, UsageError, WeightsError
from dagl_cli.images import Image
from dagl_cli.nn.model import DAGL
from dagl_cli.restoring import estimate, tiling
from dagl_cli.restoring.api import restore
from dagl_cli.restoring.file import FileRestorer
from dagl_cli.restoring.restorer import Restorer, check_task, load_model
from dagl_cli.store import weights

pytestmark = pytest.mark.usefixtures("one_thread", "bundled")


def noise(height: int, width: int, channels: int = 3, depth: int = 8, seed: int = 0) -> np.ndarray:
    """(height, width, channels) of random levels."""
    dtype = np.uint8 if depth == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**depth, (height, width, channels), dtype)


def levels_of(path: Path | bytes) -> np.ndarray:
    picture = image.read(path)
    return np.rint(picture.pixels.astype(np.float64) * (2**picture.depth - 1)).astype(np.int64)


def write(path: Path, levels: np.ndarray, **fields: object) -> Path:
    depth = 8 if levels.dtype == np.uint8 else 16
    pixels = (levels / (2**depth - 1)).astype(np.float32)
    image.write(Image(pixels, depth=depth, **fields), path, overwrite=True)  # type: ignore[arg-type]
    return path


def shifting(amount: float, task: str = "denoise", channels: int = 1, **options: object) -> Restorer:
    return Restorer(tiny(task, channels, amount, graph=False), Options(**options))  # type: ignore[arg-type]


# --- files -----------------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "two words", "ñandú", "写真", "фото 1", "שלום", "a.b", "-x", "[x]", "%d", "'\"", "#1"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    task=st.sampled_from(["denoise", "dejpeg"]),
    kind=st.sampled_from([(".png", 8), (".png", 16), (".tif", 8), (".tif", 16), (".bmp", 8), (".webp", 8)]),
    channels=st.sampled_from([1, 3]),
    alpha=st.booleans(),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    tile=st.sampled_from([None, 64, 65, 100]),
    ensemble=st.booleans(),
    stem=NAMES,
    seed=st.integers(0, 99),
)
def test_a_network_that_changes_nothing_loses_nothing(
    tmp_path: Path,
    task: str,
    kind: tuple[str, int],
    channels: int,
    alpha: bool,
    height: int,
    width: int,
    tile: int | None,
    ensemble: bool,
    stem: str,
    seed: int,
) -> None:
    """Every level, all 16 bits of it, alpha, profile and EXIF come through the whole way from file to file."""
    suffix, depth = kind
    exif = PIL.Image.Exif()
    exif[315] = "Someone"
    fields: dict[str, Any] = {
        "icc": b"\0" * 16 + (b"GRAY" if channels == 1 else b"RGB ") + bytes(16) + b"acsp" + bytes(200)
    }
    if suffix == ".bmp":
        alpha, fields = False, {}
    elif suffix == ".webp":
        fields = {"exif": exif.tobytes()[6:]}
    else:
        fields["exif"] = exif.tobytes()[6:]
    alpha = alpha and height * width > 1  # of the only pixel that is hidden nothing would be restored
    if alpha:
        fields["alpha"] = noise(height, width, 1, depth, seed + 1)[..., 0]
        fields["alpha"][0, 0] = 0  # an opaque channel is not stored by WebP
    source = write(tmp_path / (stem + suffix), noise(height, width, channels, depth, seed), **fields)
    target = tmp_path / "out" / source.name
    target.parent.mkdir(exist_ok=True)
    sigma = 25.0 if task == "denoise" else None
    restorer = FileRestorer(task, sigma=sigma, options=Options("cpu", tile=tile, ensemble=ensemble), force=True)
    report = restorer(source, target, overwrite=True)
    assert (report.status, report.note) == ("restored", None)
    before, after = image.read(source), image.read(target)
    assert np.array_equal(levels_of(target), levels_of(source))
    assert (after.format, after.depth) == (before.format, before.depth)
    assert (after.alpha is None) == (not alpha)
    assert np.array_equal(np.array(after.alpha), np.array(before.alpha))
    assert after.icc == before.icc
    assert after.exif == before.exif
    assert (after.exif is None) == (suffix == ".bmp")


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_low_bits_of_16_reach_the_network_and_come_back(tmp_path: Path, suffix: str, channels: int) -> None:
    """Three levels of 65535 are added: far below what 8 bits can hold, so a detour through them would show."""
    levels = noise(20, 30, channels, 16) // 2
    source = write(tmp_path / f"in{suffix}", levels)
    model = saved(tmp_path / "m.safetensors", tiny("dejpeg", channels, 3 / 65535, graph=False))
    FileRestorer("dejpeg", model=str(model), force=True)(source, tmp_path / f"out{suffix}")
    assert np.array_equal(levels_of(tmp_path / f"out{suffix}"), levels.astype(int) + 3)


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    tile=st.integers(64, 200),
    overlap=st.integers(0, 32),
    seed=st.integers(0, 9),
)
def test_tiles_of_any_size_add_up_to_the_whole(height: int, width: int, tile: int, overlap: int, seed: int) -> None:
    levels = noise(height, width, 3, 16, seed)
    x = torch.from_numpy(levels.astype(np.float32) / 65535).permute(2, 0, 1)
    network = tiny("dejpeg", 3, 0.01, graph=False)
    tiled = Restorer(network, Options(tile=tile, overlap=overlap))(x)
    whole = Restorer(network, Options(tiling="whole"))(x)
    assert torch.equal((tiled * 65535).round(), (whole * 65535).round())


def test_strength(tmp_path: Path) -> None:
    levels = noise(30, 20, 1, 16) // 2
    source = write(tmp_path / "in.png", levels)
    model = str(saved(tmp_path / "m.safetensors", tiny("dejpeg", 1, 1000 / 65535, graph=False)))
    for strength, added in ((0.0, 0), (0.25, 250), (1.0, 1000)):
        target = tmp_path / f"{strength}.png"
        FileRestorer("dejpeg", model=model, force=True, options=Options(strength=strength))(source, target)
        assert np.array_equal(levels_of(target), levels.astype(int) + added)
    with pytest.raises(UsageError, match="`strength` is not for demosaicing"):
        load_model("demosaic", options=Options(strength=0.5))


def textured(height: int, width: int) -> np.ndarray:
    """Smooth structure and a little noise: (H, W, 3), 8 bit; a JPEG of it shows its blocks."""
    rng = np.random.default_rng(0)
    coarse = PIL.Image.fromarray(rng.integers(40, 216, (height // 12 + 1, width // 12 + 1, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), PIL.Image.Resampling.BICUBIC), dtype=float)
    return (smooth + rng.normal(0, 6, smooth.shape)).clip(0, 255).round().astype(np.uint8)


def compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    stream = io.BytesIO()
    PIL.Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return np.asarray(PIL.Image.open(stream))


def test_the_guard_of_dejpeg(tmp_path: Path) -> None:
    """Files that the model would harm are left alone; a fine JPEG of a coarse one is not."""
    pixels = textured(200, 240)
    enlarged = np.kron(pixels[:80, :80], np.ones((2, 2, 1), np.uint8))
    coarse = compressed(pixels, 10)
    kept = {"never": pixels, "enlarged": enlarged, "small": coarse[:64]}
    for name, levels in kept.items():
        PIL.Image.fromarray(levels).save(tmp_path / f"{name}.png")
        report = FileRestorer("dejpeg")(tmp_path / f"{name}.png", tmp_path / f"{name}-out.png")
        assert report.status == "unchanged", name
    assert report.note == "too small to find JPEG blocks in: left as it is; `force` decides otherwise"
    PIL.Image.fromarray(coarse).save(tmp_path / "once.png")
    assert FileRestorer("dejpeg")(tmp_path / "once.png", tmp_path / "once-out.png").status == "restored"
    for name, levels, quality, status in (
        ("fine", pixels, 94, "unchanged"), ("good", pixels, 93, "restored"), ("twice", coarse[3:, 5:], 94, "restored"),
    ):  # fmt: skip
        PIL.Image.fromarray(levels).save(tmp_path / f"{name}.jpg", quality=quality)
        assert FileRestorer("dejpeg")(tmp_path / f"{name}.jpg", tmp_path / f"{name}-out.png").status == status, name


def test_the_zeros_of_a_mosaic_tell_its_pattern(tmp_path: Path) -> None:
    pixels = textured(16, 20) | 1
    mosaic = pixels * degrade.bayer_masks(16, 20, "GRBG").permute(1, 2, 0).numpy().astype(np.uint8)
    source = write(tmp_path / "mosaic.png", mosaic)
    with pytest.raises(DaglError, match="`pattern` RGGB is not this mosaic's: its zeros say `pattern` GRBG"):
        FileRestorer("demosaic")(source, tmp_path / "out.png")
    report = FileRestorer("demosaic", pattern="GRBG")(source, tmp_path / "out.png")
    assert (report.status, report.note) == ("restored", None)
    with pytest.raises(DaglError, match="its zeros say `pattern` GRBG"):
        restore(mosaic, "demosaic", pattern="BGGR")
    full = write(tmp_path / "full.png", pixels)  # has no zeros: it is none
    with pytest.raises(DaglError, match="an ordinary picture, not a Bayer mosaic"):
        FileRestorer("demosaic")(full, tmp_path / "full-out.png")


def test_nothing_needed_passes_a_jpeg_on_byte_for_byte(tmp_path: Path) -> None:
    """To encode it again, at quality 95, would be the only damage it ever takes."""
    smooth = np.tile(np.arange(64, dtype=np.uint8) * 3, (48, 1))
    source = tmp_path / "in.jpg"
    exif = PIL.Image.Exif()
    exif[274] = 6
    PIL.Image.fromarray(smooth).save(source, quality=98, exif=exif)
    report = FileRestorer("dejpeg")(source, tmp_path / "out.jpg")
    assert (report.status, report.quality, report.model) == ("unchanged", 98, None)
    assert report.note is not None
    assert report.note.startswith("too fine to improve, no blocks of an earlier JPEG found: left as it is")
    assert (tmp_path / "out.jpg").read_bytes() == source.read_bytes()
    stream = io.BytesIO()
    FileRestorer("dejpeg")(source.read_bytes(), stream)
    assert stream.getvalue() == source.read_bytes()
    FileRestorer("dejpeg")(source, tmp_path / "out.png")
    assert np.array_equal(levels_of(tmp_path / "out.png"), levels_of(source))
    FileRestorer("dejpeg", strip_metadata=True)(source, tmp_path / "bare.jpg")
    assert image.read(tmp_path / "bare.jpg").exif is None
    with pytest.raises(ImageError, match="`overwrite`"):
        FileRestorer("dejpeg")(source, tmp_path / "out.jpg")


def test_images_without_jpeg_blocks_are_left_alone(tmp_path: Path) -> None:
    """A picture that was never compressed gets no harm, in whatever file; hidden blocks are found in any of them."""
    clean = np.asarray(PIL.Image.fromarray(noise(20, 30)).resize((200, 130), PIL.Image.Resampling.BICUBIC)) // 2
    clean += noise(130, 200) // 32
    stream = io.BytesIO()
    PIL.Image.fromarray(clean).save(stream, "JPEG", quality=20)
    blocks = np.asarray(PIL.Image.open(stream))[3:, 5:]  # the grid is cut
    for pixels, status in ((clean, "unchanged"), (blocks, "restored")):
        source = write(tmp_path / "in.png", pixels)
        assert FileRestorer("dejpeg")(source, tmp_path / "out.png", overwrite=True).status == status
        PIL.Image.fromarray(pixels).save(tmp_path / "in.jpg", quality=99)
        assert FileRestorer("dejpeg")(tmp_path / "in.jpg", tmp_path / "out.jpg", overwrite=True).status == status
    forced = FileRestorer("dejpeg", force=True)(write(tmp_path / "in.png", clean), tmp_path / "forced.png")
    assert (forced.status, forced.note) == ("restored", None)


def test_quality_is_estimated_and_lower_ones_are_restored(tmp_path: Path) -> None:
    stream = io.BytesIO()
    PIL.Image.fromarray(noise(16, 16, 3)).save(stream, "JPEG", quality=89)
    report = FileRestorer("dejpeg")(stream.getvalue(), tmp_path / "out.png")
    assert (report.status, report.quality, report.model) == ("restored", 89, "dejpeg-color")
    assert FileRestorer("dejpeg")(tmp_path / "out.png", tmp_path / "2.png").quality is None, "no JPEG"


def test_sigma_is_estimated_and_a_clean_image_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[object] = []
    forward = DAGL.forward
    monkeypatch.setattr(DAGL, "forward", lambda self, x, sigma=None: noting(seen, sigma, forward(self, x, sigma)))
    rng = np.random.default_rng(0)
    ramp = np.add.outer(np.arange(96), np.arange(96))[..., None] / 255 + 0.1
    noisy = write(tmp_path / "noisy.png", np.rint((ramp + rng.normal(0, 20 / 255, ramp.shape)) * 255).astype(np.uint8))
    one_run = Options(precision="fp32")  # else a test picture may come first
    report = FileRestorer("denoise", options=one_run)(noisy, tmp_path / "out.png")
    assert report.status == "restored"
    assert report.sigma == pytest.approx(20, abs=2)
    assert seen == [report.sigma]

    clean = write(tmp_path / "clean.png", np.full((64, 64, 1), 90, np.uint8))
    report = FileRestorer("denoise")(clean, tmp_path / "still.png")
    assert report.status == "unchanged"
    assert report.sigma is None  # of what is even no level is estimated
    assert "`sigma` decides otherwise" in str(report.note)
    assert (tmp_path / "still.png").read_bytes() == clean.read_bytes()
    assert FileRestorer("denoise", sigma=3, options=one_run)(clean, tmp_path / "told.png").sigma is None
    assert seen[1:] == [3]


def test_an_estimate_beyond_the_range_is_clipped_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "estimate_sigma", lambda pixels: 90.0)
    seen: list[object] = []
    monkeypatch.setattr(DAGL, "forward", lambda self, x, sigma=None: noting(seen, sigma, x))
    report = FileRestorer("denoise")(write(tmp_path / "in.png", noise(16, 16, 1)), tmp_path / "out.png")
    restore(noise(16, 16, 1), "denoise")
    assert (report.sigma, report.note) == (90, "more than the model was made for: restored with `sigma` 75")
    assert seen == [75, 75]


@pytest.mark.parametrize(("task", "model"), [("denoise", "denoise-gray"), ("dejpeg", "dejpeg-gray")])
def test_a_gray_picture_stored_as_rgb_is_restored_as_gray(tmp_path: Path, task: str, model: str) -> None:
    gray = noise(40, 48, 1)
    rgb = gray.repeat(3, -1)
    made = FileRestorer(task, sigma=25 if task == "denoise" else None, force=True)
    for name, pixels in (("gray", gray), ("rgb", rgb)):
        report = made(write(tmp_path / f"{name}.png", pixels), tmp_path / f"{name}-out.png")
        assert (report.status, report.model) == ("restored", model)
    expected = image.read(tmp_path / "gray-out.png").pixels
    assert np.array_equal(image.read(tmp_path / "rgb-out.png").pixels, expected.repeat(3, -1))
    level = 25 if task == "denoise" else None
    restored = restore(gray, task, sigma=level)
    assert isinstance(restored, np.ndarray)
    assert np.array_equal(restore(rgb, task, sigma=level), restored.repeat(3, -1))
    tensor = restore(torch.from_numpy(rgb).permute(2, 0, 1) / 255, task, sigma=level)
    tensor[0] = 0  # each channel has its own memory
    assert tensor[1].any()
    named = FileRestorer(task, model=model, sigma=made.sigma, force=True)
    assert named(tmp_path / "rgb.png", tmp_path / "again.png").model == model


def test_without_noise_there_is_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DAGL, "forward", lambda *_, **__: pytest.fail("changed for nothing"))
    source = write(tmp_path / "in.png", noise(16, 16, 3))
    report = FileRestorer("denoise", sigma=0)(source, tmp_path / "out.png")
    assert (report.status, report.note) == ("unchanged", "no noise to remove: left as it is")
    assert (tmp_path / "out.png").read_bytes() == source.read_bytes()
    pixels = noise(16, 16, 3)
    assert np.array_equal(restore(pixels, "denoise", sigma=0), pixels)
    report = FileRestorer("denoise")(write(tmp_path / "thin.png", noise(4, 300, 1)), tmp_path / "thin-out.png")
    assert (report.status, report.sigma) == ("unchanged", None)
    assert report.note == "too small to find noise in: left as it is; `sigma` decides otherwise"


def test_a_target_that_cannot_be_written_is_refused_before_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DAGL, "forward", lambda *_: pytest.fail("worked for nothing"))
    deep = write(tmp_path / "in.png", noise(9, 9, 3, 16))
    for target, reason in (
        ("out.jpg", "16 bits"),
        ("out.gif", "not a format"),
        ("in.png/x.png", "cannot make the folder"),
    ):
        with pytest.raises(ImageError, match=reason):
            FileRestorer("dejpeg")(deep, tmp_path / target)
    with pytest.raises(ImageError, match="`overwrite`"):
        FileRestorer("dejpeg")(deep, deep)
    assert list(tmp_path.iterdir()) == [deep]


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_model_for_every_task() -> None:
    assert load_model("denoise", 1).name == "denoise-gray"
    assert load_model("denoise").name == "denoise-color"
    assert load_model("dejpeg", 1).config.channels == 1
    assert load_model("demosaic", 1).name == "demosaic-color"
    check_task("real", "denoise", "a denoiser, too")
    sent = pickle.loads(pickle.dumps(load_model("dejpeg", options=Options(backend="torch"))))
    assert sent.name == "dejpeg-color", "a model goes to other processes"
    with pytest.raises(UsageError, match="`task` dehaze is unknown: choose one of denoise"):
        load_model("dehaze")
    with pytest.raises(UsageError, match="`channels` must be 1"):
        load_model("denoise", 4)
    with pytest.raises(UsageError, match="made for dejpeg, not for denoise"):
        load_model("denoise", model="dejpeg-gray")
    with pytest.raises(UsageError, match="made for dejpeg, not for denoise"):
        restore(noise(8, 8), "denoise", model=load_model("dejpeg"))
    with pytest.raises(WeightsError, match="`model` nothing"):
        load_model("denoise", model="nothing")


def test_the_gaussian_denoiser_stands_in_for_camera_noise_and_says_so(
    identities: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    restorer = FileRestorer("real", warn=said.append)
    assert restorer(write(tmp_path / "in.png", noise(16, 16)), tmp_path / "a.png").model == "denoise-color"
    assert restorer(write(tmp_path / "gray.png", noise(16, 16, 1)), tmp_path / "b.png").model == "denoise-gray"
    assert set(said) == {"there is no camera-noise model yet: the Gaussian denoiser runs at the estimated noise level"}
    assert load_model("real", model="denoise-color").name == "denoise-color"

    for path in identities.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    saved(tmp_path / "real-color.safetensors", tiny("real", 3))
    monkeypatch.setattr(weights, "folder", lambda: tmp_path)
    said.clear()
    restorer = FileRestorer("real", warn=said.append)
    report = restorer(tmp_path / "gray.png", tmp_path / "c.png")
    assert (report.model, said) == ("real-color", [])
    assert np.array_equal(levels_of(tmp_path / "c.png"), levels_of(tmp_path / "gray.png")), "gray through colour"


def test_sigma_only_where_it_means_something(tmp_path: Path) -> None:
    source = write(tmp_path / "in.png", noise(16, 16, 1))
    fixed = str(saved(tmp_path / "fixed.safetensors", tiny(noise_map=False)))
    with pytest.raises(UsageError, match="fixed takes no `sigma`"):
        FileRestorer("denoise", model=fixed, sigma=25)(source, tmp_path / "a.png")
    assert FileRestorer("denoise", model=fixed)(source, tmp_path / "a.png").sigma is None, "blind: not estimated"
    for task in ("dejpeg", "demosaic"):
        with pytest.raises(UsageError, match="takes no `sigma`"):
            restore(noise(8, 8, 1), task, sigma=25)
    with pytest.raises(UsageError, match="needs `sigma`"):
        load_model("denoise", 1)(torch.zeros(1, 8, 8))


def test_a_gray_model_does_not_take_colour(tmp_path: Path) -> None:
    source = write(tmp_path / "in.png", noise(16, 16))
    with pytest.raises(DaglError, match=r"denoise-gray is a model for gray images, this one has 3 channel") as caught:
        FileRestorer("denoise", model="denoise-gray", sigma=9)(source, tmp_path / "out.png")
    assert not isinstance(caught.value, UsageError), "other files of the batch may be gray"


@pytest.mark.parametrize(
    "options",
    [
        {"precision": "foo"}, {"tile": 0}, {"tile": 63}, {"tile": -64}, {"overlap": -1}, {"strength": 2},
        {"strength": -0.1}, {"strength": float("nan")}, {"tiling": "foo"},
    ],
)  # fmt: skip
def test_options_are_checked(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        Options(**options)


@pytest.mark.parametrize("device", ["foo", "", "meta", "cuda:99", "xpu"])
def test_devices_that_are_not_there(device: str) -> None:
    with pytest.raises(UsageError, match=f"`device` {device} is not available"):
        load_model("denoise", options=Options(device))


def test_overlap_is_up_to_half_of_the_tile_in_use() -> None:
    tile = load_model("dejpeg").tile
    assert load_model("dejpeg", options=Options(overlap=tile // 2)).overlap == tile // 2 > 64
    with pytest.raises(UsageError, match="`overlap` 33 must be at most half of `tile`, which is 64"):
        load_model("dejpeg", options=Options(tile=64, overlap=33))
    with pytest.raises(UsageError, match=f"`overlap` {tile} must be at most half of `tile`, which is {tile}"):
        load_model("dejpeg", options=Options(overlap=tile))


# --- memory ----------------------------------------------------------------------------------------------------------


class Limit:
    """Makes every network run out of memory over `most` pixels."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.most = 100 * 100
        self.seen: list[tuple[int, ...]] = []
        self.error: BaseException = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB")
        forward = DAGL.forward

        def limited(network: DAGL, x: torch.Tensor, sigma: float | None = None) -> torch.Tensor:
            self.seen.append(tuple(x.shape[-2:]))
            if x.shape[-2] * x.shape[-1] > self.most:
                raise self.error
            return forward(network, x, sigma)

        monkeypatch.setattr(DAGL, "forward", limited)


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    return Limit(monkeypatch)


def test_out_of_memory_tiles_shrink_and_stay_small(limit: Limit, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DAGL(tiny("dejpeg", 1).config).eval()  # the graph makes the result depend on the tiles
    said: list[str] = []
    restorer = Restorer(network, Options("cpu", tile=256), warn=said.append)
    limit.most = 70 * 70
    x = torch.rand(1, 130, 190)
    result = restorer(x)
    assert said == [
        "out of memory on cpu: trying again with `tile` 128",
        "out of memory on cpu: trying again with `tile` 64",
    ]
    assert torch.equal(result, Restorer(network, Options("cpu", tile=64))(x))
    limit.seen.clear()
    restorer(x)
    assert max(h * w for h, w in limit.seen) <= 64 * 64, "the next image starts with tiles that fit"
    assert len(said) == 2


def test_out_of_memory_the_cpu_takes_over(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    restorer = Restorer(tiny("dejpeg", 1), Options("cpu", tile=128), warn=said.append)
    restorer.device = torch.device("cuda")
    seen = []

    def network(self: Restorer, sigma: object, depth: int) -> tiling.Network:
        def run(batch: torch.Tensor) -> torch.Tensor:
            seen.append((self.device.type, batch.shape[-1]))
            if self.device.type == "cuda":
                raise torch.OutOfMemoryError("CUDA out of memory")
            return batch / 2

        return run

    monkeypatch.setattr(Restorer, "_network", network)
    x = torch.rand(1, 100, 100)
    assert torch.equal(restorer(x), x / 2)
    devices, sizes = zip(*seen)
    assert devices == ("cuda", "cuda", "cpu")
    assert sizes[0] == sizes[2] == 100 > 64 >= sizes[1], "the CPU starts with large tiles again"
    assert said == [
        "out of memory on cuda: trying again with `tile` 64",
        "out of memory even with small tiles: going on with `device` cpu",
    ]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("MPS backend out of memory"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        MemoryError(),
    ],
    ids=str,
)
def test_every_way_to_say_out_of_memory(limit: Limit, error: BaseException, tmp_path: Path) -> None:
    limit.error = error
    restored = Restorer(tiny("dejpeg", 1, 0.25), Options("cpu"))(torch.zeros(1, 150, 150))
    assert torch.allclose(restored, torch.tensor(0.25))
    limit.most = 9
    source = write(tmp_path / "in.png", noise(99, 99, 1))
    with pytest.raises(DaglError, match="out of memory with the smallest tiles on the CPU: close other programs"):
        FileRestorer("dejpeg", force=True, options=Options("cpu"))(source, tmp_path / "out.png")
    with pytest.raises(DaglError, match="out of memory on cpu: `tiling` blend takes less"):
        Restorer(tiny("dejpeg", 1), Options("cpu", tiling="whole"))(torch.zeros(1, 150, 150))
    assert list(tmp_path.iterdir()) == [source]


def test_other_errors_are_not_taken_for_it(limit: Limit) -> None:
    limit.error = RuntimeError("expected scalar type Float")
    with pytest.raises(RuntimeError, match="scalar type"):
        Restorer(tiny("dejpeg", 1), Options("cpu"))(torch.zeros(1, 150, 150))
    assert limit.seen == [(150, 150)]


def test_no_memory_around_the_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(pixels: np.ndarray) -> float:
        raise MemoryError

    monkeypatch.setattr(estimate, "estimate_sigma", full)
    with pytest.raises(DaglError, match="out of memory: close other programs, or make the image smaller"):
        FileRestorer("denoise")(write(tmp_path / "in.png", noise(9, 9)), tmp_path / "out.png")


# --- mosaics ---------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    pattern=st.sampled_from(BAYER_PATTERNS),
    height=st.integers(2, 21),
    width=st.integers(2, 21),
    ensemble=st.booleans(),
    depth=st.sampled_from([8, 16]),
    seed=st.integers(0, 99),
)
def test_mosaics_reach_the_network_in_its_own_pattern(
    pattern: str, height: int, width: int, ensemble: bool, depth: int, seed: int
) -> None:
    """The network sees each sample in the channel and at the phase it was trained on, and all samples come back."""
    levels = noise(height, width, 1, depth, seed)
    restorer = Restorer(tiny("demosaic", 3, graph=False), Options("cpu", ensemble=ensemble))
    seen: list[Tensor] = []
    restorer._network = lambda sigma, depth: lambda batch: noting(seen, batch, batch)  # type: ignore[method-assign]
    result = restore(levels, "demosaic", pattern=pattern, model=restorer)
    assert isinstance(result, np.ndarray)
    assert result.dtype == levels.dtype
    masks = degrade.bayer_masks(height, width, pattern).permute(1, 2, 0).numpy()
    assert np.array_equal(result, levels * masks)
    assert np.array_equal(result, restore(levels * masks, "demosaic", pattern=pattern, model=restorer))
    assert np.array_equal(result, restore(levels[..., 0], "demosaic", pattern=pattern, model=restorer))
    assert len(seen) == 3 * (8 if ensemble else 1)
    for batch in seen:
        assert torch.equal(batch, degrade.bayer_mosaic(batch)), "GRBG, whatever came in"


def test_mosaic_files_become_rgb(tmp_path: Path) -> None:
    """RGGB is the default of the files and of the API."""
    levels = noise(7, 9, 1, 16)
    source = write(tmp_path / "bayer.tif", levels, icc=b"\0" * 16 + b"GRAY" + bytes(16) + b"acsp" + bytes(200))
    report = FileRestorer("demosaic")(source, tmp_path / "rgb.tif")
    assert report.model == "demosaic-color"
    expected = levels * degrade.bayer_masks(7, 9, "RGGB").permute(1, 2, 0).numpy()
    assert np.array_equal(levels_of(tmp_path / "rgb.tif"), expected)
    assert image.read(tmp_path / "rgb.tif").icc is None, "a gray profile says nothing about RGB"
    assert np.array_equal(restore(levels, "demosaic"), expected)
    with pytest.raises(UsageError, match="`pattern` XXXX is unknown: choose one of RGGB"):
        restore(levels, "demosaic", pattern="XXXX")
    with pytest.raises(UsageError, match="`pattern` XXXX"):
        FileRestorer("demosaic", pattern="XXXX")
    with pytest.raises(DaglError, match="a mosaic of 9x1 pixels"):
        restore(levels[:1], "demosaic")


def test_progress_counts_up_to_the_end() -> None:
    for task, channels in (("demosaic", 3), ("dejpeg", 1)):
        for ensemble in (False, True):
            calls: list[tuple[int, int]] = []

            def note(done: int, total: int, calls: list[tuple[int, int]] = calls) -> None:
                calls.append((done, total))

            restorer = Restorer(tiny(task, channels, graph=False), Options(tile=64, ensemble=ensemble))
            restorer(torch.zeros(channels, 100, 150), progress=note)
            assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
            assert calls[-1][0] == calls[-1][1]


# --- arrays and tensors ----------------------------------------------------------------------------------------------


def test_arrays_of_every_type_and_shape() -> None:
    restorer = shifting(10 / 255, "dejpeg", 1)
    for dtype, top in (("uint8", 255), ("uint16", 65535), (">u2", 65535), ("f2", 1), ("f4", 1), ("f8", 1), (">f4", 1)):
        for shape in ((6, 9), (6, 9, 1)):
            array = np.full(shape, 100 / 255 * top).astype(dtype)
            array.flags.writeable = False
            result = restore(array, "dejpeg", model=restorer)
            assert isinstance(result, np.ndarray)
            assert (result.dtype, result.shape) == (array.dtype, shape)
            expected = 110 / 255 * top
            assert np.allclose(result.astype(float), np.rint(expected) if top > 1 else expected, atol=1e-3), dtype
    assert restore(np.ones((6, 9)), "dejpeg", model=restorer).max() == 1, "clipped to the range"


def test_layouts_in_memory() -> None:
    restorer = shifting(0, "dejpeg", 3)
    base = noise(12, 10, 4)
    views = [base[..., :3], base[::-1, ::-2, 2::-1], base[..., :3].swapaxes(0, 1), np.asfortranarray(base[..., :3])]
    for view in views:
        before = view.copy()
        assert np.array_equal(restore(view, "dejpeg", model=restorer), before)
        assert np.array_equal(view, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_tensors(dtype: torch.dtype) -> None:
    x = torch.full((3, 7, 5), 0.25, dtype=dtype, requires_grad=True)
    result = restore(x.transpose(1, 2), "dejpeg", model=shifting(0.25, "dejpeg", 3))
    assert isinstance(result, torch.Tensor)
    assert (result.dtype, result.shape, result.requires_grad) == (dtype, (3, 5, 7), False)
    assert torch.equal(result, torch.full_like(result, 0.5))
    assert restore(x[:1], "demosaic").shape == (3, 7, 5)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (np.zeros((4, 4, 4), np.uint8), "take alpha off first"),
        (np.zeros((4, 4, 2)), "take alpha off first"),
        (np.zeros(4), "must be (H, W)"),
        (np.zeros((1, 3, 4, 4)), "must be (H, W)"),
        (np.zeros((4, 4), np.int32), "must be uint8, uint16 or float"),
        (np.zeros((4, 4), bool), "must be uint8, uint16 or float"),
        (np.zeros((4, 4), complex), "must be uint8, uint16 or float"),
        (np.zeros((0, 4)), "has no pixels"),
        (np.full((4, 4), np.nan), "finite and in [0, 1]"),
        (np.full((4, 4), np.inf), "finite and in [0, 1]"),
        (np.full((4, 4), 255.0), "finite and in [0, 1]"),
        (np.full((4, 4), -1.0), "finite and in [0, 1]"),
        (torch.zeros(4, 4), "must be (1, H, W) or (3, H, W)"),
        (torch.zeros(4, 4, 3), "must be (1, H, W) or (3, H, W)"),
        (torch.zeros(3, 4, 4, dtype=torch.int32), "uint8 or float in [0, 1], not"),
        (torch.full((3, 4, 4), float("nan")), "finite and in [0, 1]"),
        (torch.zeros(3, 0, 4), "has no pixels"),
    ],
    ids=lambda v: str(v) if isinstance(v, str) else f"{type(v).__name__}{tuple(v.shape)}",
)
def test_what_is_no_image_is_refused(bad: np.ndarray | Tensor, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        restore(bad, "dejpeg")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_noise_a_little_beyond_the_range_is_fine() -> None:
    beyond = np.array([[-0.3, 1.4], [0.5, 0.5]], np.float32)
    assert np.array_equal(restore(beyond, "dejpeg"), beyond.clip(0, 1))
    assert np.array_equal(restore(beyond, "dejpeg", options=Options(strength=0)), beyond.clip(0, 1))


@pytest.mark.parametrize("sigma", [-1, 75.1, float("nan"), float("inf")])
def test_sigma_has_a_range(sigma: float) -> None:
    with pytest.raises(UsageError, match="must be between 0 and 75"):
        restore(noise(8, 8), sigma=sigma)
    with pytest.raises(UsageError, match="must be between 0 and 75"):
        FileRestorer("denoise", sigma=sigma)


def test_the_public_interface() -> None:
    x = noise(8, 8)
    assert np.array_equal(dagl_cli.restore(x, "denoise", sigma=0), x)
    assert np.array_equal(dagl_cli.restore(x, "dejpeg", model=dagl_cli.load_model("dejpeg")), x)


def test_a_demosaiced_edge_is_as_good_as_the_inside(tmp_path: Path) -> None:
    """Every pattern, even and odd sizes: padding to the trained pattern must not repeat a wrong colour."""
    seen: list[Tensor] = []

    class Watch(torch.nn.Module):
        config = tiny("demosaic", 3).config

        def forward(self, x: Tensor, sigma: float | None) -> Tensor:
            seen.append(x)
            return x

    restorer = Restorer(Watch(), Options(), "watch")  # type: ignore[arg-type]
    colour = torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1)
    for pattern in ("RGGB", "BGGR", "GRBG", "GBRG"):
        for height, width in ((6, 8), (7, 8), (6, 9), (7, 9)):
            restorer(colour.expand(3, height, width).contiguous(), None, pattern)
            mosaic = seen.pop()[0]
            assert mosaic.shape[1] % 2 == mosaic.shape[2] % 2 == 0, "whole cells"
            expected = degrade.bayer_mosaic(colour.expand(3, *mosaic.shape[1:])[None], "GRBG")[0]
            assert torch.equal(mosaic, expected), (pattern, height, width)


def test_a_turned_mosaic_is_refused(tmp_path: Path) -> None:
    """The pattern is that of the stored rows: after EXIF orientation it would be another one."""
    exif = PIL.Image.Exif()
    exif[274] = 6
    PIL.Image.fromarray(noise(16, 16, 1).squeeze()).save(tmp_path / "in.png", exif=exif)
    with pytest.raises(DaglError, match="orientation 6"):
        FileRestorer("demosaic")(tmp_path / "in.png", tmp_path / "out.png")

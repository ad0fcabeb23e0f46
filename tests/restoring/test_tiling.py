"""Tiling: identity, coverage, alignment, the release's chop, the x8 ensemble."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dagl_cli.errors import UsageError
from dagl_cli.restoring.tiling import chop, ensemble_x8, overlap_blend, whole

sizes = st.integers(1, 90)


def with_coordinates(height: int, width: int, channels: int = 1) -> Tensor:
    """(channels + 2, H, W): random pixels, then every pixel's row and column."""
    torch.manual_seed(height * 1000 + width)
    rows = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.float32).expand(height, width)
    return torch.cat([torch.rand(channels, height, width), torch.stack([rows, columns])])


class Recorder:
    """A restorer that drops the two coordinate channels and notes where each piece lay and how large it was."""

    def __init__(self, restore: Callable[[Tensor], Tensor] = lambda x: x) -> None:
        self.restore = restore
        self.pieces: list[tuple[int, int, int, int]] = []  # row, column, height, width
        self.batches: list[int] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.batches.append(x.shape[0])
        self.pieces += [(int(p[-2, 0, 0]), int(p[-1, 0, 0]), p.shape[-2], p.shape[-1]) for p in x]
        return self.restore(x[:, :-2])


@st.composite
def tilings(draw: st.DrawFn) -> tuple[int, int, int]:
    """tile, overlap, multiple that leave a step."""
    multiple = draw(st.sampled_from([1, 2, 4, 8]))
    overlap = draw(st.integers(0, 20))
    tile = draw(st.integers(-(-(overlap + multiple) // multiple) * multiple, 60))
    return tile, overlap, multiple


@settings(max_examples=100, deadline=None)
@given(sizes, sizes, tilings(), st.integers(1, 5))
def test_overlap_blend_of_identity_is_the_image(
    height: int, width: int, tiling: tuple[int, int, int], batch: int
) -> None:
    tile, overlap, multiple = tiling
    image = with_coordinates(height, width)
    original = image.clone()
    recorder = Recorder()
    progress: list[tuple[int, int]] = []

    result = overlap_blend(
        recorder, image, tile, overlap, multiple, batch=batch, progress=lambda *counts: progress.append(counts)
    )

    assert result.shape == (1, height, width)
    assert result.dtype == torch.float32
    tolerance = 1e-6 if 2 * overlap <= tile else 5e-6  # up to hundreds of tiles add up at one pixel
    torch.testing.assert_close(result, image[:1], rtol=0, atol=tolerance)
    assert torch.equal(image, original)

    # Progress only rises, and reaches the number of pieces; batches are full but for the last of each size.
    assert [done for done, _ in progress] == np.cumsum(recorder.batches).tolist()
    assert {total for _, total in progress} == {len(recorder.pieces)}
    assert max(recorder.batches) <= batch
    assert sum(b < batch for b in recorder.batches) <= 4

    # Every pixel is covered, at aligned starts, by tiles of one size but for shorter ones at the far edges.
    assert len(set(recorder.pieces)) == len(recorder.pieces)
    covered = torch.zeros(height, width, dtype=torch.bool)
    for row, column, h, w in recorder.pieces:
        covered[row : row + h, column : column + w] = True
    assert covered.all()
    for axis, size in ((0, height), (1, width)):
        spans = sorted({(piece[axis], piece[axis] + piece[axis + 2]) for piece in recorder.pieces})
        assert all(start % multiple == 0 for start, _ in spans)
        if size <= tile:
            assert spans == [(0, size)]
            continue
        aligned = spans[0][1] - spans[0][0]
        assert aligned <= tile
        assert aligned % multiple == 0
        assert all(stop - start == aligned for start, stop in spans[:-1])
        assert aligned - multiple < spans[-1][1] - spans[-1][0] <= aligned
        assert all(before[1] - after[0] >= overlap for before, after in pairwise(spans))
        largest = tile // multiple * multiple
        step = (largest - overlap) // multiple * multiple
        assert len(spans) == 1 + -(-(size - largest) // step)  # no tile more than needed


def test_tiles_have_one_size_where_the_image_permits() -> None:
    recorder = Recorder()
    overlap_blend(recorder, with_coordinates(160, 224), tile=64, overlap=16, multiple=8)
    assert {(h, w) for _, _, h, w in recorder.pieces} == {(64, 64)}


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.integers(5, 16), st.integers(24, 48))
def test_a_local_operator_is_exact_away_from_the_tile_edges(height: int, width: int, overlap: int, tile: int) -> None:
    def box(x: Tensor) -> Tensor:
        return F.avg_pool2d(x, 5, stride=1, padding=2)

    image = with_coordinates(height, width)
    recorder = Recorder(box)
    blended = overlap_blend(recorder, image, tile, overlap, 1)
    wrong = (blended - box(image[None, :1])[0]).abs()[0]

    near_edge = torch.zeros(height, width, dtype=torch.bool)  # within 2 pixels of an edge inside the image
    for row, column, h, w in recorder.pieces:
        inside = torch.zeros(height, width, dtype=torch.bool)
        inside[row : row + h, column : column + w] = True
        top, left = row + 2 * (row > 0), column + 2 * (column > 0)
        bottom, right = row + h - 2 * (row + h < height), column + w - 2 * (column + w < width)
        inside[top:bottom, left:right] = False
        near_edge |= inside
    assert wrong[~near_edge].max() < 1e-6
    assert wrong.max() < 0.2  # zero padding alone takes away up to 0.6 of a bright pixel's value


def test_seams_fade() -> None:
    """Tiles that differ by a constant give a slope, not a step: no jump larger than the steepest weight change."""
    values = iter(range(100))

    def constant(x: Tensor) -> Tensor:
        return torch.full_like(x, float(next(values)))

    row = overlap_blend(constant, torch.zeros(1, 32, 80), tile=48, overlap=16, multiple=1)[0, 5]
    assert row[[0, -1]].tolist() == [0, 1]
    assert (row.diff() >= 0).all()
    assert row.diff().max() < 0.15


def test_channels_in_and_out_may_differ() -> None:
    image = torch.rand(4, 50, 70)
    result = overlap_blend(lambda x: x[:, :3] * x[:, 3:], image, tile=32, overlap=8, multiple=2)
    torch.testing.assert_close(result, image[:3] * image[3:])


@pytest.mark.parametrize(
    ("tile", "overlap", "multiple", "batch"),
    [(32, 32, 1, 1), (32, 26, 8, 1), (4, 0, 8, 1), (32, -1, 1, 1), (32, 8, 8, 0)],
)
def test_tilings_without_a_step_are_refused(tile: int, overlap: int, multiple: int, batch: int) -> None:
    with pytest.raises(UsageError):
        overlap_blend(lambda x: x, torch.zeros(1, 8, 8), tile, overlap, multiple, batch=batch)


def test_whole_is_one_call() -> None:
    recorder = Recorder(lambda x: x + 1)
    progress: list[tuple[int, int]] = []
    image = with_coordinates(13, 1)
    result = whole(recorder, image, progress=lambda *counts: progress.append(counts))
    assert recorder.pieces == [(0, 0, 13, 1)]
    assert progress == [(1, 1)]
    assert torch.equal(result, image[:1] + 1)


# --- the release's chop ---


def depends_on_position(x: Tensor) -> Tensor:
    """Differs at every place in a piece and with the piece's size and content, so a wrong cut cannot go unseen."""
    height, width = x.shape[-2:]
    ramp = torch.arange(height * width, dtype=x.dtype).reshape(height, width) / 7
    return x * (1 + height / 100) + ramp - width + x[..., :1, :1]


def chop_oracle(restore: Callable[[Tensor], Tensor], x: Tensor, margin: int, max_pixels: int) -> Tensor:
    """The recursion as `forward_chop` of the release describes it: quadrants, four corners, hard cut."""
    height, width = x.shape[-2:]
    up, left = height // 2, width // 2
    h, w = up // 4 * 4 + margin, left // 4 * 4 + margin
    assert (h <= height) & (w <= width), "the release crashes here"
    corners = [x[..., :h, :w], x[..., :h, -w:], x[..., -h:, :w], x[..., -h:, -w:]]
    if h * w < max_pixels:
        corners = [restore(corner) for corner in corners]
    else:
        corners = [chop_oracle(restore, corner, margin, max_pixels) for corner in corners]
    down, right = height - up, width - left
    top = torch.cat([corners[0][..., :up, :left], corners[1][..., :up, -right:]], -1)
    bottom = torch.cat([corners[2][..., -down:, :left], corners[3][..., -down:, -right:]], -1)
    return torch.cat([top, bottom], -2)


@settings(max_examples=25, deadline=None)
@given(st.integers(44, 330), st.integers(44, 330), st.sampled_from([24, 12, 23]), st.sampled_from([10_000, 4_000]))
def test_chop_is_the_release_to_the_bit(height: int, width: int, margin: int, max_pixels: int) -> None:
    image = torch.rand(2, height, width, dtype=torch.float64)
    expected = chop_oracle(depends_on_position, image[None], margin, max_pixels)[0]
    assert torch.equal(chop(depends_on_position, image, margin, max_pixels), expected)
    assert torch.equal(chop(depends_on_position, image, margin, max_pixels, batch=3), expected)


def test_chop_of_512_is_256_pieces_of_76() -> None:
    """DESIGN section 4: 5.6 times the pixels."""
    recorder = Recorder()
    progress: list[tuple[int, int]] = []
    chop(recorder, with_coordinates(512, 512), batch=16, progress=lambda *counts: progress.append(counts))
    assert len(recorder.pieces) == 256
    assert {piece[2:] for piece in recorder.pieces} == {(76, 76)}
    assert len(progress) == 16
    assert progress[-1] == (256, 256)


@settings(max_examples=25, deadline=None)
@given(sizes, sizes, st.sampled_from([4, 12, 24]), st.sampled_from([1, 500, 10_000]))
def test_chop_also_takes_what_the_release_cannot(height: int, width: int, margin: int, max_pixels: int) -> None:
    image = with_coordinates(height, width)
    assert torch.equal(chop(Recorder(), image, margin, max_pixels), image[:1])


def test_chop_refuses_a_margin_that_leaves_gaps() -> None:
    with pytest.raises(UsageError):
        chop(lambda x: x, torch.zeros(1, 50, 50), margin=3)


# --- the ensemble ---


Turn = Callable[[np.ndarray], np.ndarray]


def test_ensemble_is_the_mean_over_the_eight_views() -> None:
    """Against the eight modes as the release lists them, numpy on (H, W)."""
    modes: list[tuple[Turn, Turn]] = [  # forward and back
        (lambda a: a, lambda a: a),
        (lambda a: np.flipud(np.rot90(a)), lambda a: np.flipud(np.rot90(a))),
        (np.flipud, np.flipud),
        (lambda a: np.rot90(a, 3), np.rot90),
        (lambda a: np.flipud(np.rot90(a, 2)), lambda a: np.flipud(np.rot90(a, 2))),
        (np.rot90, lambda a: np.rot90(a, 3)),
        (lambda a: np.rot90(a, 2), lambda a: np.rot90(a, 2)),
        (lambda a: np.flipud(np.rot90(a, 3)), lambda a: np.flipud(np.rot90(a, 3))),
    ]
    image, noise_map = torch.rand(2, 9, 14, dtype=torch.float64)

    def restore(x: Tensor) -> Tensor:  # (B, 2, h, w) -> (B, 1, h, w), no symmetry
        return depends_on_position(x[:, :1]) * x[:, 1:].cumsum(-1)

    views = []
    for forward, back in modes:
        view = np.stack([forward(image.numpy()), forward(noise_map.numpy())])
        views.append(back(restore(torch.from_numpy(view.copy())[None])[0, 0].numpy()))
    calls: list[tuple[int, ...]] = []

    def counted(x: Tensor) -> Tensor:
        calls.append(tuple(x.shape))
        return restore(x)

    result = ensemble_x8(counted)(torch.stack([image, noise_map])[None])
    np.testing.assert_allclose(result[0, 0].numpy(), np.mean(views, axis=0), rtol=1e-12)
    assert sorted(calls) == [(1, 2, 9, 14)] * 4 + [(1, 2, 14, 9)] * 4


def test_ensemble_works_inside_tiles() -> None:
    image = torch.rand(2, 60, 45)
    result = overlap_blend(ensemble_x8(lambda x: x[:, :1] * x[:, 1:]), image, tile=32, overlap=8, multiple=4, batch=2)
    torch.testing.assert_close(result, image[:1] * image[1:])

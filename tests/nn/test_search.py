"""Both forms of the search for candidates find the same: block by block, and all blocks at once."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dagl_cli.nn import search as module
from dagl_cli.nn.gated import coefficients, dct_basis
from dagl_cli.nn.search import Axis, Grid, at_once, largest, search

pytestmark = pytest.mark.usefixtures("one_thread")
Search = Callable[[Tensor, Grid, int], Tensor]


def in_bands(embedded: Tensor, grid: Grid, count: int) -> Tensor:
    """What `search` does on a GPU, two rows of blocks at a time."""
    rows, columns = (Axis.of(*sides, grid.stride, grid.window) for sides in zip(grid.keys, grid.queries))
    parts = [at_once(embedded, some, columns, count) for some in rows.split(2)]
    return torch.cat(parts, 1)[:, : grid.queries[0], : grid.queries[1]]


@pytest.mark.parametrize("form", [search, in_bands])
def test_the_nearest_keys_of_a_window_are_found(form: Search) -> None:
    """A patch that comes again is found wherever it lies in the window; a node is always its own neighbour."""
    torch.manual_seed(0)
    image = torch.rand(1, 1, 72, 72)
    image[..., 41:49, 37:45] = image[..., 16:24, 20:28]
    nodes = coefficients(image, dct_basis(8).float())[:, 0]
    grid = Grid.of(72, 72, 8, 4, 64)
    found = form(nodes, grid, 2)
    assert found.shape == (1, 17, 17, 2)
    assert set(found[0, 4, 5].tolist()) == {16 * 65 + 20, 41 * 65 + 37}
    own = (torch.arange(17)[:, None] * 4 * 65 + torch.arange(17) * 4)[None, ..., None]
    assert bool((found == own).any(-1).all())
    flat = form(torch.zeros(1, 65, 65, 64), grid, 3)
    assert bool((flat == own).any(-1).all()), "however many others are the same"


@pytest.mark.parametrize(("height", "width"), [(72, 72), (8, 8), (12, 200), (136, 76), (152, 8)])
def test_all_blocks_at_once_are_as_one_after_the_other(height: int, width: int) -> None:
    torch.manual_seed(0)
    grid = Grid.of(height, width, 8, 4, 40)
    nodes = torch.rand(2, *grid.keys, 5)
    found, expected = (form(nodes, grid, 6).sort(-1).values for form in (in_bands, search))
    assert torch.equal(found, expected)


def test_on_a_device_of_its_own_nothing_is_left_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """'meta' has no numbers, but refuses tensors of two devices as a GPU does."""
    monkeypatch.setattr(module, "MOST", 1)
    grid = Grid.of(136, 76, 8, 4, 64)
    found = search(torch.rand(2, *grid.keys, 5, device="meta"), grid, 6)
    assert found.shape == (2, *grid.queries, 6)
    assert found.device.type == "meta"


@pytest.mark.parametrize(("rows", "columns", "count"), [(64, 64, 16), (32, 5, 3), (16, 2, 9), (30, 7, 4), (3, 3, 9)])
def test_largest_in_two_steps(rows: int, columns: int, count: int) -> None:
    values = torch.randn(7, rows, columns)
    expected = values.flatten(1).topk(count, -1).indices
    torch.testing.assert_close(largest(values, count).sort(-1).values, expected.sort(-1).values)

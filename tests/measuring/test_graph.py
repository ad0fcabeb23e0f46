"""`dagl graph`: the edges that it shows are those of the network; what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from helpers import dagl, refused, saved, tiny

from dagl_cli.measuring import graph
from dagl_cli.nn.gated import GatedStage
from dagl_cli.nn.model import DAGL, MGFAM

pytestmark = pytest.mark.usefixtures("here", "one_thread")


def gated() -> DAGL:
    return tiny(graph="gated", patch=8, neighbours=6, stage_blocks=1)


@pytest.fixture
def picture() -> Path:
    """A pattern that comes again every 8 pixels, with noise."""
    random = np.random.default_rng(0)
    tile = random.integers(40, 216, (8, 8))
    noisy = np.tile(tile, (9, 8)) + random.normal(0, 5, (72, 64))
    path = Path("in.png")
    PIL.Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path)
    return path


def test_a_gated_graph(picture: Path) -> None:
    """The pattern's copies are the neighbours, and their weights the network's own."""
    saved(Path("model.safetensors"), gated())
    stdout, _ = dagl("graph", picture, "-o", "out.png", "--model", "model.safetensors", "--sigma", 5, "--at", "31,35",
                     "--at", "0,0", "--json")  # fmt: skip
    found = json.loads(stdout)
    assert found["model"] == "model"
    assert [point["at"] for point in found["points"]] == [[31, 35], [0, 0]]
    assert all(1 <= point["neighbours"] <= 6 for point in found["points"])
    shown = np.asarray(PIL.Image.open("out.png"))
    assert shown.ndim == 3
    assert len(shown) == 2 * (graph.SIDE + graph.CAPTION + graph.GAP)
    model = gated()
    image = torch.from_numpy(np.asarray(PIL.Image.open(picture)) / np.float32(255))[None]
    node = graph.look(model, image, 5.0, [(35, 31)], stage=graph.stage_of(model, None, 1, ""))[0]
    assert node.query == (32, 28)
    assert len(node.strongest) == 5
    assert all(y % 8 == 32 % 8 and x % 8 == 28 % 8 for y, x in node.strongest)
    assert float(node.weights.nansum()) == pytest.approx(1)
    assert float(node.similarity[32, 28]) == 0
    assert float(node.numbers[8, 7]) == pytest.approx(1 / float(node.weights.nan_to_num(0).square().sum()), rel=1e-4)


@pytest.mark.parametrize("kind", ["released", "paper", "no-attention", "no-knn"])
def test_a_graph_inside_the_network(kind: str) -> None:
    """Its weights are those that the network aggregates with."""
    torch.manual_seed(0)
    model = tiny(graph=kind, heads=2)
    stage = graph.stage_of(model, 1, 2, "")
    assert isinstance(stage, MGFAM)
    image, seen = torch.rand(1, 40, 48), []

    def watch(q: Any, k: Any, v: Any, gamma: Any, beta: Any, **how: Any) -> Any:
        from dagl_cli.nn.attention import edge_weights

        s = q @ k.mT
        seen.append(edge_weights(s, s.mean(-1), gamma, beta, how["graph"]))
        return torch.zeros_like(v)

    with torch.no_grad():
        inputs: list[torch.Tensor] = []
        stage.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
        model(image[None], 25.0)
        stage.aggregate(inputs[0], watch)
    node = graph.look(model, image, 25.0, [(17, 33)], stage=stage, head=2)[0]
    # 20x24 features, queries every 4: 5x6 nodes; the point is in row 17 // 2 // 4 = 2, column 33 // 2 // 4 = 4
    torch.testing.assert_close(node.weights.flatten(), seen[0][0, 1, 2 * 6 + 4])
    assert node.numbers.shape == (5, 6)
    assert node.query == ((2 * 4 - 1) * 2, (4 * 4 - 1) * 2)


def test_what_is_refused(picture: Path) -> None:
    saved(Path("gated.safetensors"), gated())
    saved(Path("plain.safetensors"), tiny(graph=False))
    saved(Path("pixels.safetensors"), tiny(graph="nonlocal"))
    ours = ("-o", "out.png", "--model", "gated.safetensors", "--sigma", 5)
    for arguments, line in [
        ((*ours, "--at", "3"), "--at '3' is not a point: write X,Y in pixels from the top left, as 120,64"),
        ((*ours, "--at", "64,3"), "--at 64,3 lies outside the image of 64x72 pixels"),
        ((*ours, "--head", 2), "--head must be 1-1 for gated, not 2"),
        ((*ours, "--stage", 9), "--stage must be 1-1 for gated, not 9"),
        (("-o", picture, "--model", "gated.safetensors"), "-o in.png is the input and is never overwritten"),
        (("-o", "-"), "-o - : the figure is a file: give a name, such as graph.png"),
        (("-o", "nowhere/out.png"), "-o nowhere/out.png: the folder nowhere does not exist: create it first"),
    ]:
        assert line in refused("graph", picture, *arguments, code=2)
    assert "plain has no graph: choose a model that `dagl weights list` calls DAGL" in refused(
        "graph", picture, "-o", "out.png", "--model", "plain.safetensors", "--sigma", 5, code=1
    )
    assert "pixels has pixel-wise attention, no patches" in refused(
        "graph", picture, "-o", "out.png", "--model", "pixels.safetensors", "--sigma", 5, code=1
    )
    many = [word for x in range(60) for y in range(5) for word in ("--at", f"{x},{y}")]
    for output, points, line in (("out.xyz", [], "is not a format"), ("out.jpg", many, "JPEG holds at most")):
        arguments = ("graph", picture, "-o", output, "--model", "no.safetensors", *points)
        assert line in refused(*arguments, code=1), "before any work: there is no such model"
    assert not Path("out.png").exists()
    Path("out.png").touch()
    assert "-o out.png exists: --overwrite replaces it" in refused("graph", picture, *ours, code=2)


def test_many_points_are_one_look(picture: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs once for all points of a region, and each point has what it has alone."""
    model, calls = gated(), list[int]()
    model.register_forward_hook(lambda *_: calls.append(1))
    image = torch.from_numpy(np.asarray(PIL.Image.open(picture)) / np.float32(255))[None]
    points = [(35, 31), (0, 0), (71, 63), (35, 31)]
    _, found = graph.figure(model, image, 5.0, points)
    assert len(calls) == 1
    assert found == [graph.figure(model, image, 5.0, [point])[1][0] for point in points]


def test_a_point_at_the_border_of_a_large_picture() -> None:
    assert graph.region(300, 80, (299, 0), 64, 16) == (slice(224, 288), slice(0, 64))
    assert graph.region(40, 80, (20, 79), 64, 1) == (slice(0, 40), slice(16, 80))


def test_every_graph_has_its_stage() -> None:
    assert isinstance(graph.stage_of(gated(), None, 1, ""), GatedStage)

"""Published and used as models of the Hub are: pushed in one commit, loaded by name, the same numbers again."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import ROOT, saved, tiny
from local_hub import COMMIT, TOKEN, Hub, environment
from safetensors import safe_open

from dagl_cli import DAGL
from dagl_cli.config import GRAPHS, VARIANTS, model_config
from dagl_cli.errors import WeightsError
from dagl_cli.store import card, weights


@pytest.fixture
def server() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.shutdown()
    server.server_close()


def run(server: Hub, home: Path, *command: object, **more: str) -> subprocess.CompletedProcess[str]:
    env = environment(home, server.url, PYTHONPATH=str(ROOT), **{"HF_TOKEN": TOKEN} | more)
    return subprocess.run([sys.executable, *map(str, command)], env=env, text=True, capture_output=True, check=False)


def dagl(server: Hub, home: Path, *arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
    return run(server, home, "-m", "dagl_cli", "weights", *arguments, **more)


def test_push(server: Hub, tmp_path: Path) -> None:
    path = saved(tmp_path / "denoise-gray.safetensors", tiny(shift=0.25), licence="MIT")
    result = dagl(server, tmp_path, "push", "me/models", path)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"hub:me/models@{COMMIT}\n"
    assert server.files["me/models"].keys() == {"denoise-gray.safetensors", "manifest.json", "README.md", "config.json"}
    assert server.commits == ["main"], "one commit"
    found = dagl(server, tmp_path, "path", result.stdout.strip())
    assert found.returncode == 0, found.stderr
    assert Path(found.stdout.strip()).read_bytes() == path.read_bytes()

    assert dagl(server, tmp_path, "export", tmp_path / "out", "--model", path).returncode == 0
    (tmp_path / "out/secret.txt").write_text("not of the export")
    result = dagl(server, tmp_path, "push", "me/other", tmp_path / "out", "--revision", "v2", "--private", "--json")
    assert json.loads(result.stdout)["reference"] == f"hub:me/other@{COMMIT}"
    assert server.files["me/other"].keys() == server.files["me/models"].keys()
    assert server.commits == ["main", "v2"]


SEVERAL = """
import json, sys
from typer.testing import CliRunner
from dagl_cli.cli import app
for arguments in sys.argv[1:]:
    result = CliRunner().invoke(app, ["weights", *json.loads(arguments)])
    print(json.dumps([result.exit_code, result.stderr]))
"""
"""Commands in one process, which is what they cost."""


def test_what_is_not_pushed(server: Hub, tmp_path: Path) -> None:
    good = saved(tmp_path / "good.safetensors", tiny(), licence="MIT")
    unstated = saved(tmp_path / "unstated.safetensors", tiny())
    blank = saved(tmp_path / "blank.safetensors", tiny(), licence=" ")
    theirs = saved(tmp_path / "theirs.safetensors", tiny(), licence="none stated: for your own use only")
    dagl(server, tmp_path, "export", tmp_path / "damaged", "--model", good)
    (tmp_path / "damaged/good.safetensors").write_bytes(good.read_bytes()[:-1] + b"?")
    cases: list[tuple[list[object], int, str]] = [
        (["me/x", unstated], 4, "Error: unstated.safetensors: no licence is stated"),
        (["me/x", blank], 4, "Error: blank.safetensors: no licence is stated"),
        (["me/x", theirs], 4, "may not be passed on: its licence is 'none stated"),
        (["me/x", tmp_path / "damaged"], 4, "damaged: its SHA-256 is"),
        (["me/x", tmp_path], 4, "there is no manifest"),
        (["me", good], 2, "write hub:OWNER/REPO"),
        (["me/x@v1", good], 2, "write OWNER/REPO"),
        (["faults/forbidden", good], 4, "the Hub refuses access (403)"),
        (["faults/broken", good], 4, "the Hub answers 500"),
    ]
    told = run(server, tmp_path, "-c", SEVERAL, *(json.dumps(["push", *map(str, case[0])]) for case in cases))
    for (_, code, expected), outcome in zip(cases, map(json.loads, told.stdout.splitlines()), strict=True):
        assert (outcome[0], outcome[1].count("\n")) == (code, 1), outcome
        assert expected in outcome[1]
    denied = dagl(server, tmp_path, "push", "me/x", good, HF_TOKEN="hf_other")
    assert (denied.returncode, denied.stderr.count("\n")) == (4, 1)
    assert "`hf auth login` or set HF_TOKEN to one that may write to" in denied.stderr
    assert not server.commits


def test_the_licences_that_let_weights_be_passed_on(tmp_path: Path) -> None:
    for licence in (
        "MIT",
        "mit",
        "CC0",
        "CC-BY-4.0",
        "cc-by-nc-sa-4.0",
        "Apache License 2.0",
        "BSD-3-Clause",
        "GPL-3.0",
    ):
        card.check_licence("x", licence)
    model = DAGL(tiny().config)
    for bad in (None, "", "none stated", "proprietary", "all rights reserved", "mitigated"):
        with pytest.raises(WeightsError, match="licence"):
            card.check_licence("x", bad)
        model.info["licence"] = bad
        with pytest.raises(WeightsError, match="licence"):
            model.push_to_hub("me/x")


PYTHON = """
import sys, torch, dagl_cli
for name in sys.argv[1:]:
    model = dagl_cli.DAGL.from_pretrained(name.removeprefix("offline:"), local_files_only=name.startswith("offline:"))
    print(type(model).__name__, model.config.task, float(model(torch.zeros(1, 1, 8, 8), 25).mean()))
    if name == "me/models":
        model.push_to_hub("me/again")
"""


def test_from_the_hub_and_back(server: Hub, tmp_path: Path) -> None:
    path = saved(tmp_path / "denoise-gray.safetensors", tiny(shift=0.25), licence="MIT")
    assert dagl(server, tmp_path, "push", "me/models", path).returncode == 0
    names = ["me/models", "offline:me/models", "me/again", f"me/again@{COMMIT}"]
    result = run(server, tmp_path, "-c", PYTHON, *names)
    assert result.stdout == "DAGL denoise 0.25\n" * len(names), result.stderr
    assert {"model.safetensors", "manifest.json", "README.md", "config.json"} <= server.files["me/again"].keys()


def test_folders_files_and_names(tmp_path: Path) -> None:
    model = DAGL(tiny(shift=0.5).config)
    model.info["licence"] = "MIT"
    model.save_pretrained(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "README.md", "config.json", "manifest.json", "model.safetensors",
    ]  # fmt: skip
    for name in (tmp_path / "out", str(tmp_path / "out/model.safetensors")):
        again = DAGL.from_pretrained(name)
        assert isinstance(again, torch.nn.Module)
        assert not again.training
        assert (again.config, again.info) == (model.config, {"licence": "MIT"})
        assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters()))
    assert weights.load(tmp_path / "out/model.safetensors")[0].config == model.config
    assert DAGL.from_pretrained("denoise-gray").config.task == "denoise"


def test_what_is_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "config.json").write_text('{"depth": 3}')
    for name, expected in (("empty", "holds not one weight file but none"), ("what", "no such file or bundled model")):
        with pytest.raises(WeightsError, match=expected):
            DAGL.from_pretrained(name)
    with pytest.raises(WeightsError, match="dagl is offline"):
        DAGL.from_pretrained("google/vit-base", local_files_only=True)


def test_weights_of_others_and_of_other_versions(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.safetensors", tiny())
    content = safetensors.torch.load_file(good)
    with safe_open(good, "pt") as file:
        metadata = dict(file.metadata())
    config = json.loads(metadata["config"])
    for changes, expected in (
        ({"format": "pt"}, "not a dagl weight file"),
        ({"format": "dagl-2"}, r"of another version of dagl \(dagl-2, not dagl-1\): install a newer dagl"),
        ({"config": json.dumps(config | {"window_shift": 4})}, "has unknown settings: window_shift"),
    ):
        folder = tmp_path / str(len(expected))
        folder.mkdir()
        safetensors.torch.save_file(content, folder / "model.safetensors", {**metadata, **changes})
        (folder / "config.json").write_text('{"architectures": ["ViTModel"], "hidden_size": 768}')
        with pytest.raises(WeightsError, match=expected) as caught:
            DAGL.from_pretrained(folder)
        assert "\n" not in str(caught.value)
    (tmp_path / "config.json").write_text('{"library_name": "dagl", "models": {"good": {"depth": 3}}, "what": 1}')
    assert DAGL.from_pretrained(tmp_path).config.to_dict() == config, "a weight file knows its own configuration"


def small(variant: str) -> DAGL:
    """A variant with as few blocks, stages, heads and features as it can have, whose layers all have a say."""
    config = replace(model_config(variant, "denoise", 1), features=8, head_features=2, embedding=4, blocks=2)
    fewest = {name: min(1, getattr(config, name)) for name in ("stages", "heads", "stage_blocks", "outer_blocks")}
    torch.manual_seed(0)
    model = DAGL(replace(config, **fewest)).eval()
    for name, weight in model.named_parameters():
        if name.endswith("conv_out.weight"):
            torch.nn.init.normal_(weight, std=0.1)
    return model


INPUTS = (torch.rand(1, 1, 24, 32, generator=torch.Generator().manual_seed(0)), torch.tensor([25.0]))
ALSO = ("paper", "equations", "no-knn", "no-attention", "nonlocal")
"""Graphs that no variant has."""


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # of torch itself
@pytest.mark.parametrize("name", [*VARIANTS, *(f"half with {graph}" for graph in ALSO)])
def test_torch_export(name: str) -> None:
    variant, _, graph = name.partition(" with ")
    model = small(variant)
    if graph:
        model = DAGL(replace(model.config, graph=graph)).eval()
    with torch.no_grad():
        exported = torch.export.export(model, INPUTS)
        torch.testing.assert_close(exported.module()(*INPUTS), model(*INPUTS))


def test_every_graph_is_exported() -> None:
    assert {variant.graph for variant in VARIANTS.values()} | set(ALSO) == set(GRAPHS)


@pytest.mark.parametrize("variant", [name for name, config in VARIANTS.items() if not config.stages])
def test_torch_compile_in_one_graph(variant: str) -> None:
    """Of the networks without a graph, with gradients too."""
    model = small(variant)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    expected, found = model(*INPUTS), compiled(*INPUTS)
    torch.testing.assert_close(found, expected)
    by_compiled, by_itself = (torch.autograd.grad(x.square().sum(), model.conv_in.weight) for x in (found, expected))
    torch.testing.assert_close(by_compiled, by_itself)

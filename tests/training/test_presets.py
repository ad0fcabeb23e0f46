"""Settings: flags before TOML before presets before defaults; every setting is in all of them."""

import inspect
from dataclasses import fields
from pathlib import Path

import pytest

from dagl_cli.cli.options import flat
from dagl_cli.cli.train import train
from dagl_cli.config import ModelConfig
from dagl_cli.errors import UsageError
from dagl_cli.training import presets
from dagl_cli.training.presets import PRESETS, TrainConfig, resolve

NEEDED = dict(task="denoise", data=[Path("photos")], output=Path("run"), channels=1)
LENGTH = dict(steps=10)


def test_every_setting_is_a_flag() -> None:
    flags = set(inspect.signature(flat(train)).parameters)
    assert flags - {"context", "config", "data_dir", "resume", "quiet"} == {f.name for f in fields(TrainConfig)}


def test_the_order_of_sources() -> None:
    assert resolve(NEEDED | LENGTH).lr == 1e-3
    assert resolve(NEEDED | LENGTH | {"preset": "paper"}).lr == 4e-4
    assert resolve(NEEDED | LENGTH | {"preset": "paper"}, {"lr": 2e-4}).lr == 2e-4
    assert resolve(NEEDED | LENGTH | {"preset": "paper", "lr": 1e-4}, {"lr": 2e-4}).lr == 1e-4
    assert resolve(NEEDED | {"minutes": 5.0}, {"preset": "table6:2"}).steps is None
    case = resolve(NEEDED | LENGTH | {"preset": "table6:2", "model": {"heads": 2}})
    assert case.model == PRESETS["table6:2"]["model"] | {"heads": 2}
    assert PRESETS["table6:2"]["model"]["heads"] == 1


def test_a_preset_is_not_applied_to_a_run_that_is_resumed() -> None:
    saved = NEEDED | {"minutes": 60.0, "lr": 1e-3, "preset": "table6:2"}
    resumed = resolve({"preset": "table6:2"}, {}, saved)
    assert (resumed.minutes, resumed.steps, resumed.lr, resumed.model) == (60.0, None, 1e-3, {})


def test_names_that_are_not_utf8_are_refused() -> None:
    for name, value in (("data", [Path("caf\udce9")]), ("output", Path("caf\udce9"))):
        with pytest.raises(UsageError, match=f"`{name}` caf.*: its name is not UTF-8"):
            resolve(NEEDED | LENGTH | {name: value})


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_are_whole(preset: str) -> None:
    config = resolve(
        NEEDED | ({} if "steps" in PRESETS[preset] or preset == "release" else LENGTH) | {"preset": preset}
    )
    assert config.preset == preset
    assert not presets.checked(PRESETS[preset], TrainConfig, preset).keys() & {"data", "output"}


def test_paper_is_the_released_network() -> None:
    shape = resolve(NEEDED | LENGTH | {"preset": "paper"}).model_config()
    assert shape == ModelConfig(noise_map=True)
    assert resolve(NEEDED | {"preset": "release"}).model_config() == ModelConfig()


def test_release_differs_by_task() -> None:
    gray = resolve(NEEDED | {"preset": "release"})
    assert (gray.loss, gray.lr, gray.batch, gray.steps, gray.halve_every) == ("mse", 4e-4, 32, 1_300_000, 200_000)
    mosaic = resolve(NEEDED | {"preset": "release", "task": "demosaic", "channels": 3})
    assert (mosaic.loss, mosaic.lr, mosaic.steps, mosaic.model_config().blocks) == ("l1", 2e-4, 1_500_000, 32)


def test_the_tables_cases() -> None:
    heads = {name: resolve(NEEDED | {"preset": name}).model_config() for name in PRESETS if name.startswith("table")}
    assert (heads["table5:NL"].graph, heads["table5:NL"].heads) == ("nonlocal", 1)
    assert heads["table5:w/o THD"].graph == "no-knn"
    assert (heads["table6:7"].heads, heads["table6:7"].stages) == (4, 4)
    assert heads["table5:DAGL"] == heads["table6:5"] == ModelConfig()
    budgets = {str({k: v for k, v in PRESETS[name].items() if k != "model"}) for name in heads}
    assert len(budgets) == 1


def test_toml_comes_back(tmp_path: Path) -> None:
    config = resolve(NEEDED | LENGTH | {"preset": "fast", "clip": 0.0, "scales": [0.5]})
    (tmp_path / "run.toml").write_text(presets.to_toml(config))
    assert resolve(presets.read_toml(tmp_path / "run.toml")) == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = fast", "not TOML"),
        ("speed = 3", "unknown setting 'speed'"),
        ('steps = "many"', "steps must be int"),
        ("data = 'photos'", "data must be list"),
        ('scales = ["half"]', "scales must be a list of numbers"),
        ("scales = [true]", "scales must be a list of numbers"),
        ("tensorboard = 1", "tensorboard must be bool"),
        ("[model]\nblocs = 3", r"run.toml: \[model\] unknown setting 'blocs'"),
    ],
)
def test_mistakes_in_toml_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(UsageError, match=message):
        presets.read_toml(tmp_path / "run.toml")
    with pytest.raises(UsageError, match="cannot be read"):
        presets.read_toml(tmp_path / "none.toml")


def test_settings_of_the_network() -> None:
    assert presets.parse_set(["outer_blocks=3", "graph=paper"]) == {"outer_blocks": 3, "graph": "paper"}
    for wrong in ("outer_blocks", "=3", " = 3"):
        with pytest.raises(UsageError, match="NAME=VALUE"):
            presets.parse_set([wrong])
    with pytest.raises(UsageError, match=r"unknown setting 'wings': choose from .*, outer_blocks, activation$"):
        presets.parse_set(["wings=2"])


@pytest.mark.parametrize("scale", [0, 1, -0.5, 2.0, float("nan")])
def test_scales_are_between_0_and_1(scale: float) -> None:
    with pytest.raises(UsageError, match="`scales` must be between 0 and 1, not"):
        resolve(NEEDED | LENGTH | {"scales": [0.5, scale]})


@pytest.mark.parametrize("error", [-0.1, 1.0, float("nan")])
def test_sigma_error_is_a_share(error: float) -> None:
    with pytest.raises(UsageError, match="`sigma_error` must be at least 0 and below 1, not"):
        resolve(NEEDED | LENGTH | {"sigma_error": error})


def test_a_scale_is_given_once() -> None:
    with pytest.raises(UsageError, match=r"`scales` 0\.5 is given twice"):
        resolve(NEEDED | LENGTH | {"scales": [0.5, 0.67, 0.5]})


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="give `data`"):
        resolve({"task": "denoise", "steps": 1, "output": Path("run")})
    with pytest.raises(UsageError, match="`preset` quick is unknown: choose one of paper, lite"):
        resolve(NEEDED | {"preset": "quick"})


@pytest.mark.parametrize(("text", "said"), [("data=[1]", "a list of strings"), ('data="/x"', "must be list, not '/x'")])
def test_folders_in_toml_are_a_list_of_strings(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(text)
    with pytest.raises(UsageError, match=said):
        presets.read_toml(tmp_path / "run.toml")

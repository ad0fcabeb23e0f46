"""What a shell completes, what the manual page says, and how wide and in what colours things are printed."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions

import pytest
import tomlkit
from helpers import ROOT, dagl
from test_options import COMMANDS

from dagl_cli.cli import app, manual
from dagl_cli.config import DEVICES, PRECISIONS, TASKS, VARIANTS
from dagl_cli.measuring.datasets import DATASETS
from dagl_cli.measuring.peers import PEERS
from dagl_cli.store import weights
from dagl_cli.training.presets import PRESETS

MODELS = {path.stem for path in weights.bundled()}


def completed(words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """What bash is told for the last word."""
    monkeypatch.setenv("_DAGL_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    with pytest.raises(SystemExit):
        app(prog_name="dagl")
    return set(capsys.readouterr().out.split("\n")) - {""}


@pytest.mark.parametrize(
    ("words", "values"),
    [("denoise --model ", MODELS), ("weights info ", MODELS), ("benchmark --model ", MODELS),
     ("benchmark --compare ", MODELS | PEERS.keys()),
     ("train --init-from ", MODELS), ("train --task ", TASKS), ("weights import --task ", TASKS),
     ("train --preset ", PRESETS), ("train --variant ", VARIANTS), ("benchmark --dataset ", DATASETS),
     ("datasets verify Set12 ", DATASETS), ("dejpeg --device ", DEVICES), ("denoise --precision ", PRECISIONS),
     ("denoise --model dejpeg-gray-", {"dejpeg-gray-lite"}), ("demosaic --pattern RG", {"RGGB"}), ("dej", {"dejpeg"}),
     ("restore --format j", {"jpg", "jxl"})],
)  # fmt: skip
def test_values_are_completed(
    words: str, values: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert completed(f"dagl {words}", monkeypatch, capsys) >= set(values)


def test_every_option_with_names_is_completed() -> None:
    """By the names of parameters, so that a new command cannot forget one."""
    kinds = {
        "task",
        "preset",
        "variant",
        "model",
        "dataset",
        "device",
        "precision",
        "backend",
        "pattern",
        "tiling",
        "protocol",
    }
    found = set()
    for words, command in COMMANDS.items():
        for parameter in command.params:
            if parameter.name in kinds and "--set" not in parameter.opts:
                assert parameter._custom_shell_complete is not None, f"{words} --{parameter.name}"
                found.add(parameter.name)
    assert found == kinds


def test_the_manual_has_every_command_and_option() -> None:
    page = manual.page()
    read = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "").replace("\\e", "\\")
    for words, command in COMMANDS.items():
        if not getattr(command, "commands", None):
            (section,) = re.findall(rf'^\.SH "DAGL {words.upper()}"\n(.*?)(?=^\.SH)', read, re.M | re.S)
            for parameter in command.params:
                for flag in (
                    parameter.opts if parameter.param_type_name == "option" and parameter.name != "help" else ()
                ):
                    assert re.search(rf"^(.*, )?{flag}\b", section, re.M), f"{words} {flag}"
                    assert " ".join(parameter.help.split()) in section
    assert "DAGL_MODEL" in read
    assert ".B 130\ninterrupted" in read


@pytest.mark.skipif(not shutil.which("groff"), reason="needs groff")
def test_the_manual_is_understood_by_groff() -> None:
    made = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8"], input=manual.page(), text=True, capture_output=True, check=True
    )
    assert made.stderr == ""
    assert "remove noise" in re.sub(r"\x1b\[[\d;]*m|.\x08", "", made.stdout).lower()


def test_a_build_has_what_the_manual_needs() -> None:
    """All that the command line imports without torch, pyproject.toml gives to the build (hatch_build.py)."""
    project = tomlkit.parse((ROOT / "pyproject.toml").read_text()).unwrap()
    given = set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["dependencies"])
    code = "import sys; from dagl_cli.cli import app; print(*{name.partition('.')[0] for name in sys.modules})"
    loaded = set(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True).split())
    ours = {re.split(r"[<>=\[]", requirement)[0] for requirement in project["project"]["dependencies"]}
    distributions = packages_distributions()
    assert {name.lower() for module in loaded for name in distributions.get(module, ())} & ours <= given <= ours


@pytest.mark.parametrize("width", [60, 100])
def test_the_help_is_as_wide_as_the_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        app(["denoise", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert width - 15 < max(map(len, lines)) <= width


def test_tables_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    digest = weights.sha256(weights.folder() / "denoise-gray.safetensors")
    monkeypatch.delenv("COLUMNS", raising=False)
    assert digest in dagl("weights", "info", "denoise-gray")[0].decode(), "in a pipe it is one word"
    monkeypatch.setenv("COLUMNS", "40")
    narrow = dagl("datasets", "list")[0].decode()
    assert max(map(len, narrow.splitlines())) <= 40
    assert "…" not in narrow


@pytest.mark.parametrize(("variables", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colours(variables: dict[str, str], coloured: bool) -> None:
    """Of a message on a terminal: FORCE_COLOR stands for one."""
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TERM", "COLORTERM")}
    command = [sys.executable, "-m", "dagl_cli", "denoise", "--sigma", "99", "in.png"]
    env = plain | {"FORCE_COLOR": "1", "TERM": "xterm-256color", "PYTHONPATH": str(ROOT)} | variables
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert ("\x1b[31m" in result.stderr) is coloured

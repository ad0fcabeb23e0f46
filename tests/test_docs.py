"""The documents and the code agree: every command is understood, the cheap ones are run, links lead somewhere."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomlkit
from helpers import DATA, ROOT, dagl
from PIL import Image
from typer.main import get_command

import dagl_cli
from dagl_cli import degrade
from dagl_cli.cli import app
from dagl_cli.cli.options import with_address
from dagl_cli.store import weights

PATHS = ["README.md", "CHANGELOG.md", "dagl_cli/README.md", "weights/README.md", "tests/data/README.md"]
DOCUMENTS = {path: (ROOT / path).read_text(encoding="utf-8") for path in PATHS}
README = DOCUMENTS["README.md"]

OTHERS = {".ci/run", "hf", "mypy", "pytest", "ruff"}
"""Programs that are not ours: what they take is theirs to check."""
CHEAP = {
    "compare", "datasets list", "dejpeg", "demosaic", "denoise", "graph", "restore", "weights info", "weights list",
    "weights verify",
}  # fmt: skip
OTHER_FLAGS = {
    "--check", "--megapixels", "--release", "--help", "--nproc-per-node", "--before", "--sides", "--files", "--rounds",
    "--flags", "--checkpoint", "--plot", "--repeat", "--eager",
}  # fmt: skip
"""Of the studies, of ruff and torchrun."""
ABSENT = re.compile(r"hub:|OWNER|\.dng|\.nef|card/|developed/|runs/|\.venv")
"""Cheap commands that name what only users have are not run."""


def blocks(text: str, language: str) -> str:
    return "\n".join(re.findall(rf"^ *```{language}\n(.*?)^ *```", text, re.M | re.S))


def simple(line: str) -> Iterator[list[str]]:
    """The words of each simple command in a line of shell."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="&|;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if not set(word) <= set("&|;"):
            words.append(word)
        elif words:
            yield words
            words = []


def redirected(words: list[str]) -> tuple[list[str], dict[str, str]]:
    """(arguments, {'<': file, '>': file})."""
    places = [i for i, word in enumerate(words) if word in ("<", ">")]
    first = places[0] if places else len(words)
    return words[:first], {words[i]: words[i + 1] for i in places}


def written(text: str) -> Iterator[tuple[list[str], bool]]:
    """(words, whole): the commands of a document; in running text they need not be whole."""
    for line in filter(None, blocks(text, "sh").replace("\\\n", " ").splitlines()):
        yield from ((words, True) for words in simple(line))
    prose = re.sub(r"^ *```.*?^ *```", "", text, flags=re.M | re.S)
    for inline in re.findall(r"`((?:dagl|python|pip|torchrun|hf) [^`]+)`", prose):
        yield from ((words, False) for words in simple(inline.replace("\n", " ")))


def understand(arguments: list[str], whole: bool) -> None:
    """Parsed by the command line itself: commands and flags exist, values fit, and of a whole command nothing lacks."""
    command, name, arguments = get_command(app), "dagl", with_address(arguments)
    while inner := getattr(command, "commands", None):
        if not arguments or arguments == ["--help"]:
            return
        name, *arguments = arguments
        if name.startswith("-"):
            assert name in {flag for parameter in command.params for flag in parameter.opts}, f"dagl has no {name}"
            return
        assert name in inner, f"there is no command {name}"
        command = inner[name]
    try:
        command.make_context(name, [word for word in arguments if word != "--help"])
    except Exception as error:
        if whole or type(error).__name__ != "MissingParameter":
            raise AssertionError(f"dagl {name} {shlex.join(arguments)}: {error}") from None


def help_of(script: str, *subcommand: str) -> str:
    """What a script prints for --help, in this process, which has loaded already what it imports."""
    path, printed = ROOT / script, io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, "argv", [script, *subcommand, "--help"])
        patch.syspath_prepend(path.parent)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(path), run_name="__main__")
    assert ended.value.code == 0
    return printed.getvalue()


@pytest.fixture(scope="module")
def study_help() -> dict[tuple[str, ...], str]:
    return {}


@pytest.mark.parametrize("path", PATHS)
def test_every_command_is_understood(path: str, study_help: dict[tuple[str, ...], str]) -> None:
    extras = tomlkit.parse((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for words, whole in written(DOCUMENTS[path]):
        (program, *arguments), _ = redirected(words)
        program = program.removeprefix(".venv/bin/")
        if "dagl_cli" in arguments and "-m" in arguments:  # torchrun, python
            program, arguments = "dagl", arguments[arguments.index("dagl_cli") + 1 :]
        if program == "dagl":
            understand(arguments, whole)
        elif program.startswith("python") and arguments[0].endswith(".py"):
            script, *more = arguments
            asked = (script, *more[:1]) if more and not more[0].startswith("-") else (script,)
            if asked not in study_help:
                study_help[asked] = help_of(*asked)
            for flag in (word.split("=")[0] for word in more if word.startswith("-")):
                assert re.search(rf"{re.escape(flag)}\b", study_help[asked]), f"{script} has no {flag}"
        elif program.startswith("python"):
            assert arguments[0] == "-m", words
            assert arguments[1] in ("venv", "pytest") or importlib.util.find_spec(arguments[1]), words
        elif program == "pip":
            for named in re.findall(r"\[(.+)\]", " ".join(arguments)):
                assert set(named.split(",")) <= set(extras)
        else:
            assert program in OTHERS, words


def test_cheap_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the README, in its order, on small pictures under its names."""
    for name in [name for name in os.environ if name.startswith("DAGL_")]:
        monkeypatch.delenv(name)
    with Image.open(DATA / "cords.png") as file:
        picture = np.asarray(file)[:80, :80]
    monkeypatch.chdir(tmp_path)
    for name in ("in.png", "photos/a.png", "folder/b.jpg", "ours/a.png", "theirs/a.png", "clean/a.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(name)
    mosaic = np.where(degrade.bayer_masks(80, 80, "RGGB").permute(1, 2, 0).numpy(), picture, 0).max(2)
    Image.fromarray(mosaic).save("bayer.png")
    run = []
    for words, whole in written(README):
        (program, *arguments), redirections = redirected(words)
        name = arguments[0] if arguments[:1] and arguments[0] in CHEAP else " ".join(arguments[:2])
        if whole and program == "dagl" and name in CHEAP and not ABSENT.search(" ".join(words)):
            stdin = Path(redirections["<"]).read_bytes() if "<" in redirections else None
            stdout, _ = dagl(*arguments, stdin=stdin)
            if ">" in redirections:
                Path(redirections[">"]).write_bytes(stdout)
            run.append(name)
    assert set(run) == CHEAP
    made = {"out.png", "in_denoised.png", "photos_denoised/a.png", "restored/b.jpg", "rgb.png", "report.html"}
    assert all(Path(name).stat().st_size > 1000 for name in made)


def test_python_in_the_readme_runs() -> None:
    picture = np.random.default_rng(1).random((32, 32, 3))
    names = dict(noisy=picture, image=picture, mosaic=picture[..., 0])
    exec(blocks(README, "python"), names)
    assert names["clean"].shape == names["rgb"].shape == (32, 32, 3)


@pytest.mark.parametrize("path", PATHS)
def test_links_lead_somewhere(path: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", DOCUMENTS[path]):
        file, _, anchor = link.partition("#")
        target = (ROOT / path).parent / file if file else ROOT / path
        assert target.exists(), link
        headings = re.findall(r"^#+ (.*)$", target.read_text(encoding="utf-8"), re.M) if anchor else []
        assert not anchor or anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}, link


def test_ci_runs_the_readme_command() -> None:
    command = (ROOT / ".ci/run").read_text().strip().splitlines()[-1]
    assert f"```sh\n{command}\n```" in README


def test_the_changelog_has_this_version() -> None:
    assert f"## {dagl_cli.__version__}" in DOCUMENTS["CHANGELOG.md"]


@pytest.mark.parametrize("path", PATHS)
def test_flags_and_variables_exist(path: str) -> None:
    """Also those that stand alone, in tables and running text."""

    def below(command: Any) -> list[Any]:
        return command.params + [p for inner in getattr(command, "commands", {}).values() for p in below(inner)]

    parameters = below(get_command(app))
    flags = {flag for p in parameters for flag in p.opts + p.secondary_opts}
    variables = {p.envvar for p in parameters if p.envvar}
    ours = "\n".join(line for line in DOCUMENTS[path].splitlines() if "pip install" not in line)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)) <= flags | OTHER_FLAGS
    assert set(re.findall(r"DAGL_(?!SHARED|DATASETS_URL)\w+", ours)) <= variables


def test_the_layers_are_those_of_the_modules() -> None:
    """Each file has a line, which is the first paragraph of its docstring; no line is of a file that is gone."""
    table = DOCUMENTS["dagl_cli/README.md"].split("<!-- layers -->")[1].split("<!-- end of layers -->")[0]
    package = ROOT / "dagl_cli"
    for path in sorted(package.rglob("*.py")):
        first = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").split("\n\n")[0]
        line = f"| `{path.relative_to(package).as_posix()}` | {' '.join(first.split())} |\n"
        assert line in table, f"dagl_cli/README.md lacks {line}"
    assert all((package / name).is_file() for name in re.findall(r"^\| `([^`]+)` \|", table, re.M))


def test_places_that_are_named_exist() -> None:
    for name in re.findall(r"`([\w/]+/[\w.]*\w\.(?:py|json|md))`", DOCUMENTS["dagl_cli/README.md"]):
        assert (ROOT / name).exists() or (ROOT / "dagl_cli" / name).exists(), name


def test_every_bundled_file_has_its_card() -> None:
    for path in weights.bundled():
        assert f"`{path.name}`" in DOCUMENTS["weights/README.md"]

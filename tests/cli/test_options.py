"""Options are declared once, appear whole in the help, and are checked before torch is loaded."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import dagl
from typer.main import get_command

import dagl_cli
from dagl_cli.cli import app

PACKAGE = Path(dagl_cli.__file__).parent


def commands(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """(words, command) of each command, groups too."""
    yield words, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from commands(inner, (*words, name))


COMMANDS = {" ".join(words): command for words, command in commands(get_command(app))}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_help_text_appears_whole(name: str) -> None:
    shown, command = "".join(dagl(*name.split(), "--help")[0].decode().split()), COMMANDS[name]
    texts = [command.help, command.epilog, *(parameter.help for parameter in command.params)]
    for text in texts:
        assert "".join((text or "").split()) in shown


def test_common_options_are_the_same_everywhere() -> None:
    """One declaration: a flag that several restoring commands have is the same in all of them."""
    restoring = ("denoise", "dejpeg", "demosaic")
    options = {
        name: {p.name: (p.opts, p.help, p.envvar, p.default) for p in COMMANDS[name].params} for name in restoring
    }
    common = set.intersection(*(set(of) for of in options.values())) - {"suffix"}
    assert {"model", "device", "tile", "overwrite", "as_json", "dry_run"} <= common
    for name in common:
        assert len({repr(options[command][name]) for command in restoring}) == 1, name


@pytest.mark.parametrize(
    "flags", ["--strength 3", "--tile 3", "--tile x", "--overlap -1", "--precision x", "--sigma 76", "--max-pixels 0"]
)
def test_what_makes_no_sense_is_refused_without_torch(flags: str) -> None:
    code = f"""
import sys
from dagl_cli.cli import main
sys.argv = ["dagl", "denoise", *{flags.split()!r}, "in.png"]
try:
    main()
except SystemExit as end:
    print(end.code, "torch" in sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "2 False\n"
    assert flags.split()[0] in result.stderr
    assert result.stderr.count("\n") == 1


LIBRARY = [path for path in sorted(PACKAGE.rglob("*.py")) if "cli" not in path.relative_to(PACKAGE).parts]
OTHERS = {"--nproc-per-node", "--porcelain"}
"""Flags of other programs."""


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_does_not_speak_command_line(path: Path) -> None:
    """Messages name parameters in backquotes; `cli.boundary.with_flags` makes flags of them. Whole commands may stand
    in backquotes: `dagl weights import --task real`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation | parts:
            text = node.value
        else:
            continue
        flags = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", re.sub(r"`dagl [^`]*`", "", text)))
        assert flags <= OTHERS, f"{path}:{node.lineno}: {text!r}"

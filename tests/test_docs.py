"""The README, the changelog and the code agree."""

import re
from typing import Any

from helpers import ROOT
from typer.main import get_command

import dagl_cli
from dagl_cli.cli import app
from dagl_cli.store import weights

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_ci_runs_the_readme_command() -> None:
    command = (ROOT / ".ci/run").read_text().strip().splitlines()[-1]
    assert f"```sh\n{command}\n```" in README


def test_the_changelog_has_this_version() -> None:
    assert f"## {dagl_cli.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_flags_and_variables_in_the_readme_exist() -> None:
    def below(command: Any) -> list[Any]:
        return command.params + [p for inner in getattr(command, "commands", {}).values() for p in below(inner)]

    parameters = below(get_command(app))
    flags = {flag for p in parameters for flag in p.opts + p.secondary_opts}
    variables = {p.envvar for p in parameters if p.envvar}
    ours = "\n".join(line for line in README.splitlines() if "pip install" not in line)
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", ours)) <= flags | {"--release", "--help", "--nproc-per-node"}
    assert set(re.findall(r"DAGL_(?!SHARED|DATASETS_URL)\w+", README)) <= variables


def test_every_bundled_file_has_its_card() -> None:
    cards = (ROOT / "weights/README.md").read_text(encoding="utf-8")
    for path in weights.bundled():
        assert f"`{path.name}`" in cards

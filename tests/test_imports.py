"""The layout's rule: imports go downward only; `dagl --help` and `import dagl_cli` load no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dagl_cli

PACKAGE = Path(dagl_cli.__file__).parent

LAYERS = [
    {"errors", "files"},
    {"config", "attention", "image", "degrade", "tiling", "metrics", "raw", "datasets", "report", "hub", "muon"},
    {"model", "presets"},
    {"weights", "data", "peers"},
    {"pipeline", "release", "export"},
    {"bench", "compare", "dnd", "train"},
    {"cli"},
    {"__main__"},
]
"""From the ground up. A module imports only modules of lower layers; `__init__` is free to all (it is lazy)."""


def imports(path: Path) -> set[str]:
    """The package's own modules that a file imports, at any depth of the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            found |= {node.module.split(".")[0]} if node.module else {name.name for name in node.names}
    return found - {"__version__"}


def modules() -> list[tuple[str, Path]]:
    flat = [(path.stem, path) for path in PACKAGE.glob("*.py") if path.stem != "__init__"]
    return flat + [("cli", path) for path in (PACKAGE / "cli").glob("*.py")]


@pytest.mark.parametrize(("name", "path"), modules(), ids=lambda v: v.name if isinstance(v, Path) else v)
def test_imports_go_downward(name: str, path: Path) -> None:
    height = {module: i for i, layer in enumerate(LAYERS) for module in layer}
    own = (
        {p.stem for p in (PACKAGE / "cli").glob("*.py")} | {"a_path", "app", "by_environment", "errors", "plain", "say"}
        if name == "cli"
        else set()
    )
    for other in imports(path) - own:
        assert height[other] < height[name], f"{path.name} imports {other}"


def test_every_module_has_its_layer() -> None:
    assert {name for name, _ in modules()} == set.union(*LAYERS)


@pytest.mark.parametrize("code", ["import dagl_cli", "from dagl_cli.cli import app", "import dagl_cli.config"])
def test_no_torch_at_import(code: str) -> None:
    check = f"{code}; import sys; print('torch' in sys.modules, 'cv2' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", check], text=True) == "False False\n"


@pytest.mark.parametrize("arguments", [["--help"], ["denoise", "--help"], ["--version"]])
def test_help_loads_no_torch(arguments: list[str]) -> None:
    code = f"""
import sys
sys.argv = ['dagl', *{arguments!r}]
from dagl_cli.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
assert 'torch' not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_public_names() -> None:
    assert all(getattr(dagl_cli, name) is not None for name in dagl_cli.__all__)
    assert callable(dagl_cli.restore)
    assert callable(dagl_cli.restore), "still the function after its module was loaded"

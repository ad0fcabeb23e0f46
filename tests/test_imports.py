"""The layout's rule: imports go downward only; `dagl --help` and `import dagl_cli` load no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import dagl_cli

PACKAGE = Path(dagl_cli.__file__).parent

LAYERS = [
    "errors files silence",
    "config packages",
    "images",
    "frames",
    "degrade",
    "nn",
    "store",
    "restoring",
    "spandrel deepinv cluster",
    "measuring",
    "training",
    "cli",
    "__main__",
]
"""From the ground up: a module imports only from lower layers and from its own room; `__init__` is free to all."""
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names.split()}


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    place = path.relative_to(PACKAGE).with_suffix("").parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            whole = [*place[: len(place) - node.level], *(node.module or "").split(".")]
            rooms = {whole[0]} if whole[0] else {name.name for name in node.names} - {"__version__"}
            for room in rooms - {place[0]} if place != ("__init__",) else ():
                assert HEIGHT[room] < HEIGHT[place[0]], f"{path}:{node.lineno} imports {room}"


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


def test_restoring_loads_what_it_uses(tmp_path: Path) -> None:
    noisy = np.random.default_rng(0).normal(128, 25, (72, 80, 3)).clip(0, 255).astype(np.uint8)
    PIL.Image.fromarray(noisy).save(tmp_path / "in.png")
    code = f"""
import sys
sys.argv = ['dagl', 'denoise', {str(tmp_path / "in.png")!r}, {str(tmp_path / "out.png")!r}]
from dagl_cli.cli import main
try:
    main()
except SystemExit as end:
    assert not end.code
unused = {{
    'torch._dynamo', 'sympy', 'scipy', 'skimage', 'huggingface_hub', 'tomlkit', 'onnx', 'rawpy', 'imageio',
    'dagl_cli.cli.benchmark', 'dagl_cli.cli.train', 'dagl_cli.measuring', 'dagl_cli.training',
}}
print(sorted(unused & set(sys.modules)))
"""
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
    assert (tmp_path / "out.png").is_file()


def test_public_names() -> None:
    assert dir(dagl_cli) == sorted(dagl_cli.__all__)
    assert all(getattr(dagl_cli, name) is not None for name in dagl_cli.__all__)
    assert callable(dagl_cli.restore)

"""dagl: image restoration with Dynamic Attentive Graph Learning (DAGL, ICCV 2021).

>>> import dagl_cli
>>> clean = dagl_cli.restore(noisy, "denoise", sigma=25)          # arrays in, arrays out
>>> model = dagl_cli.load_model("dejpeg", channels=3)             # load once, use often
>>> clean = dagl_cli.restore(compressed, "dejpeg", model=model)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .config import Options
from .errors import DaglError, ImageError, UsageError, WeightsError

if TYPE_CHECKING:
    from .restoring.api import restore, restore_iter
    from .restoring.restorer import Restorer, load_model
    from .store.pretrained import DAGL

__version__ = "0.1.0"
__all__ = [
    "DAGL", "DaglError", "ImageError", "Options", "Restorer", "UsageError", "WeightsError", "__version__", "load_model",
    "restore", "restore_iter",
]  # fmt: skip

LATER = {
    "DAGL": ".store.pretrained",
    "Restorer": ".restoring.restorer",
    "load_model": ".restoring.restorer",
    "restore": ".restoring.api",
    "restore_iter": ".restoring.api",
}
"""Names that need torch, and where they are: imported when they are first used."""


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(import_module(LATER[name], __name__), name)
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__

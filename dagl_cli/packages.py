"""Packages that only some users have: imported when they are needed. Loads none of them, and no torch."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType
from typing import Any

from .errors import DaglError, one_line


class MissingPackage(DaglError, ImportError):
    """A package that a feature needs cannot be imported."""


_operators: Any = None
"""Declarations last as long as this object does."""


def load(name: str) -> ModuleType:
    """A package, even where it imports a torchvision that was built for another kind of torch than the one installed.

    That happens when one of the two is built for CUDA and the other for the CPU alone. torchvision then cannot load its
    operators, and its import fails on declaring how these behave; what is loaded here needs none of them.
    """
    global _operators
    try:
        return import_module(name)
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
    import torch

    _operators = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        _operators.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return import_module(name)


def needed(name: str, remedy: str) -> ModuleType:
    """The same. remedy: what to do where it is missing, with a place for the reason, 'needs h5py ({}): install it'.

    Raises MissingPackage.
    """
    try:
        return load(name)
    except (ImportError, RuntimeError) as error:
        raise MissingPackage(remedy.format(one_line(error))) from None

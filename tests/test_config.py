"""What there is for each task, network and format stands in tables: none of them lacks one."""

from __future__ import annotations

import pytest
import torch

from dagl_cli.config import TASKS, VARIANTS
from dagl_cli.degrade import degraded
from dagl_cli.images.formats import FORMATS, NAMES
from dagl_cli.measuring.cases import DEGRADATIONS, LEVELS
from dagl_cli.measuring.metrics import SSIM
from dagl_cli.store import weights
from dagl_cli.training.degradations import DRAWN, ENCODED
from dagl_cli.training.presets import PRESETS


@pytest.mark.parametrize("task", TASKS)
def test_tasks(task: str) -> None:
    assert task in LEVELS.keys() & DEGRADATIONS.keys() & SSIM.keys() & (DRAWN | ENCODED).keys()
    clean = torch.rand(max(TASKS[task].channels), 16, 16, generator=torch.Generator().manual_seed(1))
    assert not torch.equal(degraded(clean, task, LEVELS[task][0]), clean)
    names = {path.stem for path in weights.bundled()}
    # gray camera noise goes through the colour model: one of its own is no better yet
    needed = {weights.default_name(task, channels) for channels in TASKS[task].channels} - {"real-gray"}
    assert needed <= names


def test_every_variant_is_a_preset() -> None:
    assert VARIANTS.keys() <= PRESETS.keys()


def test_refusals_name_every_format() -> None:
    named = NAMES.upper().replace(" OR ", ",").replace(" ", "").split(",")
    assert sorted(named) == sorted(FORMATS)

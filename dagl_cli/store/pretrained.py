"""`DAGL` as models of the Hub are used in Python: `from_pretrained`, `save_pretrained`, `push_to_hub`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import PyTorchModelHubMixin

from ..config import ModelConfig
from ..errors import UsageError, WeightsError
from ..nn import model
from . import card, hub, weights


class DAGL(model.DAGL, PyTorchModelHubMixin, library_name="dagl", tags=["image-restoration"]):
    """`nn.model.DAGL`, an ordinary module: (B, channels, H, W) in [0, 1] -> the same, sigma on the 0-255 scale."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.info: dict[str, Any] = {}
        """How the weights were made: their licence and training data among others. Saved with them."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name: str | Path, *, revision: str | None = None, local_files_only: bool = False
    ) -> DAGL:
        """A network with its weights: float32, on the CPU, in eval mode.

        name: a weight file, a folder that holds one, a bundled or imported name, or a repository on the Hub,
        OWNER/REPO[@REVISION][:FILE]. Raises WeightsError where there is none, or it does not fit.
        """
        network, info = weights.load(_located(str(name), revision, local_files_only))
        with torch.device("meta"):
            own = cls(network.config)
        own.load_state_dict(network.state_dict(), assign=True)
        own.info = info
        return own.eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        """`model.safetensors`, as dagl reads it, and its manifest, card and configuration."""
        path = save_directory / "model.safetensors"
        weights.save(path, self.state_dict(), self.config, self.info)
        card.export([path], save_directory, overwrite=True)

    def push_to_hub(self, repo_id: str, **more: Any) -> str:
        """Upload what `save_pretrained` writes, in one commit; returns its address.

        more: what PyTorchModelHubMixin takes. Raises WeightsError where `info` states no licence, or one that does not
        let the weights be passed on.
        """
        card.check_licence("the network", self.info.get("licence"), "its info['licence']")
        return super().push_to_hub(repo_id, **more)


def _located(name: str, revision: str | None, offline: bool) -> Path:
    if (folder := Path(name)).is_dir():
        files = sorted(folder.glob("*.safetensors"))
        if len(files) != 1:
            said = ", ".join(path.name for path in files) or "none"
            raise WeightsError(f"{folder}: holds not one weight file but {said}: give a file")
        weights.check_known(files[0])
        return files[0]
    if (path := weights.find(name)) is not None:
        weights.check_known(path)
        return path
    try:
        spec = hub.parse(f"hub:{name.removeprefix('hub:')}")
    except UsageError:
        return weights.resolve(name, "denoise", 1, offline=offline)  # says what there is
    return weights.from_hub(replace(spec, revision=revision or spec.revision), offline=offline)

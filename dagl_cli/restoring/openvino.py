"""A network through OpenVINO, on CPUs: converted once, kept in the user's cache folder, and timed against torch."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import math
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open
from torch import cpu

from .. import __version__
from ..config import NO_ONNX, ModelConfig, Options
from ..errors import DaglError, UsageError, WeightsError, one_line
from ..files import cache_folder, locked, write
from ..packages import MissingPackage, needed
from .device import HALF_LEVEL, seconds

if TYPE_CHECKING:
    from ..nn.model import DAGL

HINTS = {"fp32": "f32", "bf16": "bf16"}
"""Precisions as OpenVINO calls them."""
STARTING = 0.5
"""Seconds that loading OpenVINO and a converted network takes, about."""
CONVERTING = 10.0
"""Seconds that converting a network and timing it takes, about."""
TOLERANCE = 1e-4
"""By more no value of a converted network may differ from torch's, in float32."""
FASTER = 0.8
"""Of the time of float32 bfloat16 may take to be worth what it changes."""

NO_GAIN = {"gated": "which would take 3 GB for a tile and longer"}
"""Graphs that are left to torch, and why."""


def check(config: ModelConfig, options: Options) -> None:
    """Raises UsageError for a network or options that OpenVINO does not serve, or where it is not installed."""
    if find_spec("openvino") is None or find_spec("onnx") is None:
        raise UsageError("`backend` openvino needs a package that is missing: pip install 'dagl[openvino]'")
    if options.device not in ("auto", "cpu"):
        raise UsageError(f"`backend` openvino is for the CPU, not for `device` {options.device}: use `device` cpu")
    if why := {**NO_ONNX, **NO_GAIN}.get(config.graph if config.stages else ""):
        raise UsageError(
            f"`backend` openvino cannot take graph '{config.graph}' ({why}): use `backend` torch, or `model` NAME-fast"
        )
    if options.precision not in ("auto", *precisions(config)):
        possible = " or ".join(precisions(config))
        raise UsageError(f"`precision` {options.precision}: `backend` openvino computes this model in {possible}")


def precisions(config: ModelConfig) -> list[str]:
    """A graph's similarities need float32, as its softmax is steep, and OpenVINO would lower all of a network."""
    return ["fp32"] if config.stages else list(HINTS)


def folder() -> Path:
    """Where converted networks are kept."""
    return cache_folder() / "openvino"


@dataclass(frozen=True)
class Converted:
    """What is known of a converted network in the cache."""

    processor: str
    """Where it was made."""
    digests: Mapping[str, str]
    """Precision -> SHA-256 of what OpenVINO compiled."""
    seconds: Mapping[str, float]
    """'torch fp32', 'openvino bf16' ... -> of a pixel, one as busy as the other."""
    change: float
    """By what bfloat16 changes a test picture: exceeded by one value in a thousand."""

    def bfloat16_serves(self, largest: float) -> bool:
        """Whether it is faster here, and changes less than `largest`."""
        mine = self.seconds.get("openvino bf16", math.inf)
        return mine < FASTER * self.seconds["openvino fp32"] and self.change < largest


def place_of(digest: str) -> Path:
    """Of a weight file, by its SHA-256: the converted network's file, which neither other versions look at nor, where
    the folder is shared, processors with other instructions."""
    instructions = hashlib.sha256(repr(sorted(cpu.get_capabilities().items())).encode()).hexdigest()[:8]
    return folder() / f"{digest}-{__version__}-{version('openvino')}-{instructions}.safetensors"


def found(path: Path) -> Converted | None:
    """None: it is not there, or damaged."""
    try:
        with safe_open(path, "numpy") as file:
            return Converted(**json.loads((file.metadata() or {})["dagl"]))
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def compiled(path: Path, known: Converted, precision: str) -> bytes | None:
    """None: it is not there, or damaged."""
    with suppress(OSError, SafetensorError, KeyError), safe_open(path, "numpy") as file:
        blob: bytes = file.get_tensor(precision).tobytes()
        if hashlib.sha256(blob).hexdigest() == known.digests[precision]:
            return blob
    return None


@functools.cache
def core() -> Any:
    """Raises UsageError where OpenVINO is installed but does not work."""
    try:
        return needed("openvino", "`backend` openvino cannot be loaded ({}): use `backend` torch").Core()
    except (MissingPackage, RuntimeError) as error:
        raise UsageError(str(error)) from None


def processor() -> str:
    return f"{core().get_property('CPU', 'FULL_DEVICE_NAME')}, {' '.join(capabilities())}"


def capabilities() -> list[str]:
    return sorted(core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


def settings(precision: str, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_PRECISION_HINT": HINTS[precision], "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY",
    }  # fmt: skip


class Network:
    """A network that OpenVINO has compiled; one call at a time, whatever the threads."""

    def __init__(self, blob: bytes, precision: str, threads: int) -> None:
        self._request = core().import_model(blob, "CPU", settings(precision, threads)).create_infer_request()
        self._lock = threading.Lock()

    def __call__(self, image: np.ndarray, level: np.ndarray | None) -> np.ndarray:
        """image: (B, C, H, W) float32; level: (B,), for mosaics (B, 1, H, W), float32. Returns (B, C, H, W)."""
        with self._lock:
            self._request.infer({"image": image} | ({} if level is None else {"sigma": level}), share_inputs=True)
            return np.array(self._request.get_output_tensor(0).data)


def convert(model: DAGL, threads: int) -> dict[str, bytes]:
    """A network by way of ONNX, in each precision that there are instructions for.

    In bfloat16 with in float32 what `nn.model.exact` keeps in it.
    """
    from ..store import onnx

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch, "network.onnx")
        onnx.write(model, path)
        made = {}
        for precision in precisions(model.config):
            if precision == "bf16" and "BF16" not in capabilities():
                continue
            graph = core().read_model(path)
            if precision == "bf16":
                keep_exact(graph)
            stream = io.BytesIO()
            core().compile_model(graph, "CPU", settings(precision, threads)).export_model(stream)
            made[precision] = stream.getvalue()
    return made


def keep_exact(graph: Any) -> None:
    """Of an `openvino.Model`: the first and the last convolution, and the sum that runs through the ResBlocks between
    them, will be in float32, whatever is asked for.

    OpenVINO lowers the precision of all convolutions, and that of everything before them, but not what stands between
    them and an output. So the two become transposed convolutions, which are no such, with their kernels turned; and of
    the sum a pixel becomes an output.
    """
    from openvino import opset13 as operators

    convolutions = {
        node.input_value(1).get_node().get_friendly_name(): node
        for node in graph.get_ordered_ops()
        if node.get_type_name() == "Convolution"
    }
    total = convolutions["conv_body.weight"].input_value(0)
    for node in (convolutions["conv_in.weight"], convolutions["conv_out.weight"]):
        kernel = node.input_value(1).get_node().get_data()[:, :, ::-1, ::-1]
        pads = [side // 2 for side in kernel.shape[2:]]
        exact = operators.convolution_backprop_data(
            node.input_value(0), operators.constant(kernel.transpose(1, 0, 2, 3).copy()), strides=[1, 1],
            pads_begin=pads, pads_end=pads, dilations=[1, 1],
        )  # fmt: skip
        node.output(0).replace(exact.output(0))
    first, last, axes = (operators.constant(np.array(pair)) for pair in ([0, 0], [1, 1], [2, 3]))
    graph.add_outputs([operators.slice(total, first, last, last, axes).output(0)])
    graph.validate_nodes_and_infer_types()


def keep(path: Path, known: Converted, blobs: Mapping[str, bytes]) -> None:
    """Raises OSError."""
    tensors = {precision: np.frombuffer(blob, np.uint8) for precision, blob in blobs.items()}
    write(path, safetensors.numpy.save(tensors, {"dagl": json.dumps(asdict(known))}))


Sample = tuple[np.ndarray, np.ndarray | None]
"""A picture and its level, as `Network` takes them."""
Warn = Callable[[str], None]


def made(
    model: DAGL, threads: int, sample: Sample, by_torch: Callable[[str], np.ndarray]
) -> tuple[Converted, dict[str, bytes]]:
    """A network converted, compared with torch, and timed beside it. by_torch: the sample in a precision.

    Raises WeightsError where the results differ.
    """
    blobs = convert(model, threads)
    runs: dict[str, Callable[[], np.ndarray]] = {
        f"openvino {precision}": functools.partial(Network(blob, precision, threads), *sample)
        for precision, blob in blobs.items()
    }
    runs |= {f"torch {precision}": functools.partial(by_torch, precision) for precision in HINTS}
    results = {name: run() for name, run in runs.items()}
    difference = float(np.abs(results["openvino fp32"] - results["torch fp32"]).max())
    if not difference <= TOLERANCE:
        raise WeightsError(f"OpenVINO's result differs from torch's by {difference:.1e}: use `backend` torch")
    change = np.abs(results.get("openvino bf16", results["openvino fp32"]) - results["openvino fp32"])
    pixels = sample[0][0, 0].size
    spent = {name: taken / pixels for name, taken in seconds(runs, turns=3).items()}
    digests = {precision: hashlib.sha256(blob).hexdigest() for precision, blob in blobs.items()}
    return Converted(processor(), digests, spent, float(np.quantile(change, 0.999))), blobs


class OpenVINO:
    """OpenVINO in torch's place for one network: for which pictures, and in which precision.

    For all, where it is asked for. With `backend` auto where it is faster, as was measured when the network was
    converted, and saves more time than it takes to load; and a network that was not converted yet is, once torch has
    worked on it for as long as that takes.

    Args:
        digest: SHA-256 of the weight file.
        sample, by_torch: as for `made`.
        warn: called with a line when a network is converted, and where that fails.
    Raises UsageError where it is asked for and does not work.
    """

    def __init__(
        self,
        model: DAGL,
        digest: str,
        options: Options,
        threads: int,
        sample: Sample,
        by_torch: Callable[[str], np.ndarray],
        warn: Warn = lambda line: None,
    ) -> None:
        self._made = functools.partial(made, model, threads, sample, by_torch)
        self._options, self._threads, self._warn = options, threads, warn
        self._fails = False
        self._path = place_of(digest)
        self._known = found(self._path)
        self._networks: dict[str, Network] = {}
        self._saved = self._spent = 0.0
        if options.backend == "openvino" and options.precision not in ("auto", *self._kept().digests):
            raise UsageError(f"`precision` {options.precision}: OpenVINO finds no instructions for it here: use fp32")

    def takes(self, pixels: int, torchs: str, exact: bool) -> bool:
        """Whether a picture is to go through it.

        torchs: the precision that torch would take. exact: that of 8 bits would not do.
        """
        if self._options.backend == "openvino":
            return True
        if self._fails or (self._known is None and self._spent < CONVERTING):
            return False
        try:
            spent = self._kept().seconds
            saved = pixels * (spent[f"torch {torchs}"] - spent[f"openvino {self.precision(exact)}"])
            self._saved += max(0.0, saved)
            if saved <= 0 or (not self._networks and self._saved < STARTING):
                return False
            self._network(self.precision(exact))
        except DaglError as error:
            self._fails = True
            self._warn(f"{error}: going on with `backend` torch")
        return not self._fails

    def worked(self, seconds: float) -> None:
        """Tells how long torch worked on a picture."""
        self._spent += seconds

    def precision(self, exact: bool) -> str:
        """exact: that of 8 bits would not do."""
        if self._options.precision != "auto":
            return self._options.precision
        return "bf16" if not exact and self._kept().bfloat16_serves(HALF_LEVEL) else "fp32"

    def __call__(self, image: np.ndarray, level: np.ndarray | None, precision: str) -> np.ndarray:
        """As `Network`."""
        return self._network(precision)(image, level)

    def _network(self, precision: str) -> Network:
        if precision not in self._networks:
            blob = compiled(self._path, self._kept(), precision)
            if blob is None or self._kept().processor != processor():
                self._known = self._convert()
                blob = compiled(self._path, self._known, precision)
            assert blob is not None
            self._networks[precision] = Network(blob, precision, self._threads)
        return self._networks[precision]

    def _kept(self) -> Converted:
        """What the cache holds, once it does."""
        if self._known is None:
            self._known = self._convert()
        return self._known

    def _convert(self) -> Converted:
        """Into the cache, unless another process has just done it."""
        try:
            folder().mkdir(parents=True, exist_ok=True)
            with locked(folder() / ".lock"):
                known = found(self._path)
                whole = known and all(compiled(self._path, known, precision) for precision in known.digests)
                if known is None or not whole or known.processor != processor():
                    self._warn("converting the network for OpenVINO, once")
                    known, blobs = self._made()
                    keep(self._path, known, blobs)
                return known
        except OSError as error:
            where = f"`backend` openvino keeps converted networks in {folder()}: {one_line(error)}"
            raise UsageError(f"{where}: set XDG_CACHE_HOME to a folder that can be written to") from None

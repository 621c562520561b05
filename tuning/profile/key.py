"""Keys of tuning profiles: the machine, model, data and flags that a profile was measured with, and the software."""

from __future__ import annotations

import hashlib
import json
import platform
import subprocess
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import mspipe_triton
from mspipe_triton import kernels
from mspipe_triton.config import ModelConfig, RunConfig
from mspipe_triton.data.events import EventStream
from mspipe_triton.devices import resolve_device
from mspipe_triton.machine import cores
from mspipe_triton.settings import compiler


@dataclass(frozen=True)
class Key:
    """The run that a profile is for.

    Args:
        subject: machine, model, data and the flags that restrict the search; software updates do not change it.
        circumstances: versions, as text by name; a change makes a profile stale.
        dataset: the stream's name, for file names; the same data under another name have an equal key.
    """

    subject: Mapping[str, Any]
    circumstances: Mapping[str, str]
    dataset: str = field(default="stream", compare=False)

    @staticmethod
    def of(config: RunConfig, stream: EventStream) -> Key:
        """Return the key of a run.

        Raises:
            ConfigError: the run is for a GPU, and none is usable.
        """
        from mspipe_triton.data.source import fingerprint  # it imports pyarrow to read files

        train, stream = resolve_device(config)[0].train, stream.to_dtype(getattr(torch, config.model.table_dtype))
        subject = {
            "device_name": torch.cuda.get_device_name() if train.device == "cuda" else f"cpu: {host_name()}",
            "host": host_name(),
            "model": _model(config.model),
            "data": fingerprint(stream),
            "events": len(stream),
            "nodes": stream.num_nodes,
            "edge_width": stream.dim_edge,
            "node_width": stream.dim_node,
            "device": train.device,
        }
        flags = (
            "task", "batch_size", "loss", "train_negatives", "negative_kind", "schedule", "staleness", "mitigation",
            "backend", "placement", "threads",
        )  # fmt: skip
        subject |= {name: getattr(train, name) for name in flags}
        circumstances = {
            "driver": _driver() if train.device == "cuda" else "none",
            "torch": torch.__version__,
            "triton": _version("triton"),
            "python": platform.python_version(),
            "compiler": compiler() or "none",
            "mspipe_triton": mspipe_triton.__version__,
            "kernels": kernel_sources(),
        }
        return Key(subject, circumstances, stream.name)

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that identify the subject."""
        return digest(self.subject)

    def changes(self, now: Key) -> list[str]:
        """Return the circumstances that have changed, as in "torch 2.12.0 then, 2.13.0 now"."""
        names = sorted({*self.circumstances, *now.circumstances})
        pairs = [(name, self.circumstances.get(name), now.circumstances.get(name)) for name in names]
        return [f"{name} {then} then, {current} now" for name, then, current in pairs if then != current]


def digest(content: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits that identify a JSON object, independent of the order of its names."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def kernel_sources() -> str:
    """Return a digest of the sources installed as `mspipe_triton.kernels`."""
    folder = Path(kernels.__path__[0])
    sources = {str(path.relative_to(folder)): path.read_text(encoding="utf-8") for path in folder.rglob("*.py")}
    return digest(sources)


def host_name() -> str:
    """Return the processor's name and the number of logical CPUs that this process may use."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else name}, {cores()} logical CPUs"


def _model(model: ModelConfig) -> dict[str, Any]:
    """Return a model's settings in the types of their defaults (0 becomes 0.0), without those that it does not use."""
    resolved, defaults = model.resolved(), asdict(ModelConfig())
    values = {name: type(default)(getattr(resolved, name)) for name, default in defaults.items()}
    return {name: value for name, value in values.items() if value != -1}


def _driver() -> str:
    """Return the GPU driver's version, or "unknown"."""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.split()[0]
    except (OSError, subprocess.SubprocessError, IndexError):
        return "unknown"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "none"

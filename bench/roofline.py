"""Measured ceilings of a machine, and the least time that an operation needs under them."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch

from bench.report import machine
from bench.timing import captured, samples
from mspipe_triton.kernels.runtime.launch import Config, Kernel, tl

LAUNCHES = 100


@dataclass(frozen=True)
class Floor:
    """Least time in seconds, and its bound: "bytes", "flops" or "launch"."""

    seconds: float
    bound: str


@dataclass(frozen=True)
class Roofline:
    """Measured ceilings of a machine.

    Args:
        device: name of the processor or GPU. threads: torch threads, for a CPU.
        bytes_per_s: rate of a large copy, bytes read plus bytes written.
        flops_per_s: rate of a large matrix product, by precision ("float32", "tf32", "float64", "bfloat16").
        launch_seconds: time of an empty kernel among others in a replayed CUDA graph; 0 on a CPU.
    """

    device: str
    threads: int
    bytes_per_s: float
    flops_per_s: dict[str, float]
    launch_seconds: float = 0.0

    def floor(self, bytes: float, flops: float = 0.0, precision: str = "float32") -> Floor:
        """Least time of any implementation that moves these bytes and does these operations."""
        terms = {
            "bytes": bytes / self.bytes_per_s,
            "flops": flops / self.flops_per_s[precision],
            "launch": self.launch_seconds,
        }
        bound = max(terms, key=terms.__getitem__)
        return Floor(terms[bound], bound)

    def as_json(self) -> dict[str, Any]:
        """Fields of the roofline, for a results file."""
        return asdict(self)


def _write_one(p_out, VALUE: tl.constexpr):  # noqa: ANN001, ANN202
    """out_0 = VALUE; a compiler might drop an empty kernel."""
    tl.store(p_out, VALUE)


def precision_of(dtype: torch.dtype) -> str:
    """Precision of a product in this dtype, as `Roofline.flops_per_s` names it, at torch's current float32 setting."""
    if dtype == torch.float32 and torch.get_float32_matmul_precision() != "highest":
        return "tf32"
    return str(dtype).removeprefix("torch.")


@contextmanager
def matmul_precision(setting: str) -> Iterator[None]:
    """Set torch's float32 matmul precision within a block: "highest" or "high" (TF32 on a GPU)."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(setting)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def measure(device: torch.device, quick: bool = False) -> Roofline:
    """Measure a machine's ceilings on random numbers; `quick` is for tests, and its figures mean nothing."""
    gpu = device.type == "cuda"
    # Several times larger than any cache: a GPU's L2 is tens of megabytes, a server's L3 up to hundreds.
    numbers = 1 << (16 if quick else 28 if gpu else 26)
    side = 64 if quick else 8192 if gpu else 2048
    seconds = 0.01 if quick else 0.5
    copy = _copy_seconds(numbers, device, seconds)
    products = {"float32": (torch.float32, "highest"), "float64": (torch.float64, "highest")}
    if gpu:
        products |= {"tf32": (torch.float32, "high"), "bfloat16": (torch.bfloat16, "highest")}
    rates = {}
    for name, (dtype, setting) in products.items():
        with matmul_precision(setting):
            rates[name] = 2 * side**3 / _product_seconds(side, dtype, device, seconds)
    name = torch.cuda.get_device_name(device) if gpu else str(machine()["cpu"])
    return Roofline(name, torch.get_num_threads(), 8 * numbers / copy, rates, _launch_seconds(device) if gpu else 0.0)


def _copy_seconds(numbers: int, device: torch.device, seconds: float) -> float:
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    return statistics.median(samples(lambda: target.copy_(source), device, seconds))


def _product_seconds(side: int, dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    a, b, out = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(3))
    return statistics.median(samples(lambda: torch.mm(a, b, out=out), device, seconds))


def _launch_seconds(device: torch.device) -> float:
    out, empty = torch.empty(1, device=device), Kernel(_write_one, {"float32": [Config(num_warps=1)]})

    def run() -> None:
        empty.launch((1,), empty.config(), out, VALUE=1.0)

    replay, _ = captured([run] * LAUNCHES)
    return statistics.median(samples(replay, device)) / LAUNCHES

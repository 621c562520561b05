"""Accelerators, and the time that an operator's work takes on them: a roofline that is linear in the samples."""

from __future__ import annotations

from dataclasses import dataclass
from math import fsum

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.operators import Duration
from mspipe_triton.pipeline.graphpipe.problem import Cluster

ATTAINED = 0.8
HALF_ROWS = 128


@dataclass(frozen=True)
class Accelerator:
    """A device, and the cluster that it is part of.

    `ACCELERATORS` has presets. Peaks, memory and links come from NVIDIA's data sheets for the SXM modules. Arithmetic
    is fp32 without TF32, torch's default. The share of the peak that matmuls attain (`ATTAINED`), the overhead per
    kernel and `half_rows` are assumptions of ours, not measurements; `dataclasses.replace` changes them.

    Args:
        name: the device's.
        flops: operations per second that large fp32 matmuls attain.
        bytes_per_second: of its memory.
        memory: bytes.
        link: bytes per second to devices of the same node, in each direction.
        between: bytes per second to devices of other nodes, in each direction.
        node: devices per node.
        overhead: seconds per kernel in which the device computes nothing.
        half_rows: rows of a matmul at which half of `flops` is attained. 128 is the height of a common matmul tile:
            128 rows of 4096 columns are 32 tiles of 128 × 128, fewer than half of the multiprocessors of a V100.

    Raises:
        ConfigError: a number is not above 0; overhead and half_rows may be 0.
    """

    name: str
    flops: float
    bytes_per_second: float
    memory: float
    link: float
    between: float
    node: int
    overhead: float = 5e-6
    half_rows: float = HALF_ROWS

    def __post_init__(self) -> None:
        for name in ("flops", "bytes_per_second", "memory", "link", "between", "node"):
            value = getattr(self, name)
            if not value > 0:
                raise ConfigError(f"{name} of {self.name} must be above 0, not {value:g}")
        for name in ("overhead", "half_rows"):
            value = getattr(self, name)
            if not value >= 0:
                raise ConfigError(f"{name} of {self.name} must be at least 0, not {value:g}")

    def cluster(self, devices: int) -> Cluster:
        """Return a cluster of these devices."""
        return Cluster(devices, self.memory, self.link, self.node, self.between)

    def duration(
        self, flops: float, traffic: float, fixed_traffic: float = 0, kernels: int = 1, rows: float = 1
    ) -> Duration:
        """Return the time of a group of kernels over n samples, as a line in n.

        per_sample = max(flops / F, traffic / M), the roofline, with F = `self.flops` and M = `bytes_per_second`.
        fixed = kernels · overhead + max(flops · half_rows / rows / F, fixed_traffic / M): a matmul of `half_rows` rows
        takes twice as long as its operations at F, and no kernel takes less time than its weights need to be read.

        Args:
            flops: operations per sample.
            traffic: bytes per sample that it reads or writes.
            fixed_traffic: bytes that it reads or writes whatever the number of samples, such as weights.
            kernels: their number.
            rows: rows per sample of the matmuls, such as the tokens of a sequence.
        """
        filling = max(flops * self.half_rows / rows / self.flops, fixed_traffic / self.bytes_per_second)
        return Duration(kernels * self.overhead + filling, max(flops / self.flops, traffic / self.bytes_per_second))


def total(*durations: Duration, times: float = 1) -> Duration:
    """Return the duration of passes that run one after the other, `times` times."""
    return Duration(times * fsum(each.fixed for each in durations), times * fsum(each.per_sample for each in durations))


ACCELERATORS = {
    each.name: each
    for each in (
        # As GraphPipe's authors used Summit (section 7 of arXiv 2406.17145): four V100 of 16 GB per node, joined by
        # NVLink, two lanes of 25 GB/s between two of them; nodes joined by EDR InfiniBand of 100 Gbit/s. In a pipeline
        # few devices of a node talk to other nodes at a time, so that each counts as having the rail for itself.
        Accelerator("v100", ATTAINED * 15.7e12, 0.9e12, 16e9, 50e9, 12.5e9, 4),
        # The others as in DGX nodes: eight devices around NVLink switches, and a network adapter per device, of
        # 200 Gbit/s beside an A100 and of 400 Gbit/s beside an H100 or H200.
        Accelerator("a100", ATTAINED * 19.5e12, 2.039e12, 80e9, 300e9, 25e9, 8),
        Accelerator("h100", ATTAINED * 67e12, 3.35e12, 80e9, 450e9, 50e9, 8),
        Accelerator("h200", ATTAINED * 67e12, 4.8e12, 141e9, 450e9, 50e9, 8),
    )
}

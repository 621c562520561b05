"""A planning problem: an operator graph, the devices to train it on, and the cost of a stage on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import fsum, inf
from typing import Any, NamedTuple

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph, members

COPIES = 4
DEVICES = 4096  # of a cluster; tables of stages have a column for each
Numbers = Any  # a number, or an array of them


class StageCost(NamedTuple):
    """Cost of a set of operators as one stage, or of many as arrays.

    Args:
        forward: seconds of a forward pass, whatever its samples.
        forward_each: seconds that each sample adds.
        backward: the same of a backward pass.
        backward_each: likewise.
        parameters: bytes.
        activations: bytes per sample that it holds between its passes.
        received: bytes per sample that it receives from other stages; it sends as many back as gradients.
    """

    forward: Numbers
    forward_each: Numbers
    backward: Numbers
    backward_each: Numbers
    parameters: Numbers
    activations: Numbers
    received: Numbers


@dataclass(frozen=True)
class Cluster:
    """Equal devices, in nodes of equal size.

    Args:
        devices: their number; devices 0 to `node` − 1 are in the first node, and so on.
        memory: bytes of each.
        bandwidth: bytes per second of a device's link, in each direction.
        node: devices per node; None: all devices are in one node.
        between: bytes per second of a device's link to other nodes; None: the same as `bandwidth`.

    Raises:
        ConfigError: a number is not above 0, devices or node is no whole number, or there are more than `DEVICES`.
    """

    devices: int
    memory: float
    bandwidth: float = inf
    node: int | None = None
    between: float | None = None

    def __post_init__(self) -> None:
        for name in ("devices", "memory", "bandwidth", "node", "between"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ConfigError(f"{name} must be above 0, not {value:g}")
            if name in ("devices", "node") and value is not None and not isinstance(value, int):
                raise ConfigError(f"{name} must be a whole number, not {value!r}")
        if self.devices > DEVICES:
            raise ConfigError(f"devices must be at most {DEVICES:,}, not {self.devices:,}")

    @property
    def slowest(self) -> float:
        """Bytes per second of the slowest link that a plan on all devices uses."""
        if self.between is None or self.node is None or self.devices <= self.node:
            return self.bandwidth
        return min(self.bandwidth, self.between)

    def link(self, senders: tuple[int, ...], receivers: tuple[int, ...]) -> float:
        """Return the bytes per second of a link between two groups of devices."""
        if self.between is None or self.node is None:
            return self.bandwidth
        nodes = {device // self.node for device in (*senders, *receivers)}
        return self.bandwidth if len(nodes) == 1 else min(self.bandwidth, self.between)


@dataclass(frozen=True)
class Problem:
    """Training of a model on a mini-batch: what a plan is for, and the cost model that all planners share.

    A stage on several devices is data parallel: each device holds all its parameters and works on an equal share of
    every micro-batch, rounded up; the gradients are summed once per mini-batch (ring all-reduce).

    Args:
        graph: the model.
        cluster: the devices.
        batch: samples per mini-batch.
        copies: bytes of state per byte of parameters. 4 is for Adam: parameters, gradients and two moments.
        replicas: devices per stage at most; None: all. 1 plans without data parallelism.

    Raises:
        ConfigError: batch, copies or replicas is no whole number of at least 1.
    """

    graph: OperatorGraph
    cluster: Cluster
    batch: int
    copies: int = COPIES
    replicas: int | None = None
    _costs: dict[int, StageCost] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("batch", "copies", "replicas"):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")

    def most_devices(self, micro_batch: int) -> int:
        """Return the most devices of a stage: no device is without a sample of a micro-batch."""
        return min(self.cluster.devices, micro_batch, self.replicas or micro_batch)

    def cost(self, operators: int) -> StageCost:
        """Return the cost of a set of operators; costless joins receive nothing.

        Its sums are correctly rounded, so equal stages have equal costs.
        """
        cost = self._costs.get(operators)
        if cost is None:
            graph = self.graph
            each = [graph.operators[index] for index in members(operators)]
            sources = 0
            for index in members(operators & graph.placed):
                sources |= graph.predecessors[index]
            cost = self._costs[operators] = StageCost(
                fsum(one.forward.fixed for one in each),
                fsum(one.forward.per_sample for one in each),
                fsum(one.backward.fixed for one in each),
                fsum(one.backward.per_sample for one in each),
                sum(one.parameters for one in each),
                sum(one.activations for one in each),
                sum(graph.operators[index].output for index in members(sources & ~operators)),
            )
        return cost

    def seconds(self, operators: int, micro_batch: int, devices: int) -> tuple[float, float]:
        """Return the seconds of a stage's forward and of its backward pass over one micro-batch."""
        return self._seconds(self.cost(operators), micro_batch, devices)

    def sync(self, operators: int, devices: int) -> float:
        """Return the seconds in which the devices of a stage sum their gradients, once per mini-batch."""
        return float(self._sync(self.cost(operators), devices))

    def time_per_sample(self, operators: int, micro_batch: int, devices: int) -> float:
        """Return the seconds per sample that a stage needs in steady state (`times_per_sample`)."""
        return float(self.times_per_sample(self.cost(operators), micro_batch, devices))

    def memory(self, operators: int, micro_batch: int, devices: int, in_flight: int) -> float:
        """Return the bytes per device of a stage that holds `in_flight` micro-batches between its passes."""
        return float(self.memories(self.cost(operators), micro_batch, devices, in_flight))

    def times_per_sample(self, cost: StageCost, micro_batch: int, devices: Numbers) -> Numbers:
        """Return the seconds per sample that stages need in steady state: the larger of their work and their transfers.

        Work is forward and backward passes, and the share of the all-reduce. Transfers overlap work.
        """
        from numpy import maximum  # takes long to import

        forward, backward = self._seconds(cost, micro_batch, devices)
        work = (forward + backward) / micro_batch + self._sync(cost, devices) / self.batch
        return maximum(work, cost.received / self.cluster.slowest)

    def memories(self, cost: StageCost, micro_batch: int, devices: Numbers, in_flight: Numbers) -> Numbers:
        """Return the bytes per device of stages that hold `in_flight` micro-batches between their passes."""
        return cost.parameters * self.copies + cost.activations * in_flight * -(-micro_batch // devices)

    def _seconds(self, cost: StageCost, micro_batch: int, devices: Numbers) -> tuple[Numbers, Numbers]:
        share = -(-micro_batch // devices)
        return cost.forward + cost.forward_each * share, cost.backward + cost.backward_each * share

    def _sync(self, cost: StageCost, devices: Numbers) -> Numbers:
        return 2 * (devices - 1) / devices * cost.parameters / self.cluster.slowest

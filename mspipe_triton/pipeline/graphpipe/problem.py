"""A planning problem: an operator graph, the devices to train it on, and the cost of a stage on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import fsum, inf

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.operators import OperatorGraph, members

COPIES = 4


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
        ConfigError: a number is not above 0.
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

    A stage on several devices is data parallel: each device holds all its parameters, works on an equal share of every
    micro-batch, and the gradients are summed once per mini-batch (ring all-reduce).

    Args:
        graph: the model.
        cluster: the devices.
        batch: samples per mini-batch.
        copies: bytes of state per byte of parameters. 4 is for Adam: parameters, gradients and two moments.

    Raises:
        ConfigError: batch or copies is below 1.
    """

    graph: OperatorGraph
    cluster: Cluster
    batch: int
    copies: int = COPIES
    _costs: dict[int, tuple[float, ...]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise ConfigError(f"batch must be at least 1 sample, not {self.batch}")
        if self.copies < 1:
            raise ConfigError(f"copies must be at least 1, not {self.copies}")

    def seconds(self, operators: int, micro_batch: int, devices: int) -> tuple[float, float]:
        """Return the seconds of a stage's forward and of its backward pass over one micro-batch."""
        forward, forward_each, backward, backward_each, *_ = self.sums(operators)
        share = -(-micro_batch // devices)
        return forward + forward_each * share, backward + backward_each * share

    def sync(self, operators: int, devices: int) -> float:
        """Return the seconds in which the devices of a stage sum their gradients, once per mini-batch."""
        parameters = self.sums(operators)[4]
        return 2 * (devices - 1) / devices * parameters / self.cluster.slowest

    def received(self, operators: int) -> float:
        """Return the bytes per sample that a stage receives from others; it sends as many back as gradients."""
        return self.sums(operators)[6]

    def time_per_sample(self, operators: int, micro_batch: int, devices: int) -> float:
        """Return the seconds per sample that a stage needs in steady state: the larger of its work and its transfers.

        Work is forward and backward passes, and the share of the all-reduce. Transfers overlap work.
        """
        forward, backward = self.seconds(operators, micro_batch, devices)
        work = (forward + backward) / micro_batch + self.sync(operators, devices) / self.batch
        return max(work, self.received(operators) / self.cluster.slowest)

    def memory(self, operators: int, micro_batch: int, devices: int, in_flight: int) -> float:
        """Return the bytes per device of a stage that holds `in_flight` micro-batches between its passes."""
        *_, parameters, activations, _ = self.sums(operators)
        return parameters * self.copies + activations * in_flight * -(-micro_batch // devices)

    def sums(self, operators: int) -> tuple[float, ...]:
        """Return sums over a set of operators, correctly rounded, so that equal stages have equal costs.

        They are the fixed and per-sample seconds of forward passes, the same of backward passes, bytes of parameters,
        and per sample the bytes of activations and of outputs that come from other operators.
        """
        sums = self._costs.get(operators)
        if sums is None:
            graph = self.graph
            each = [graph.operators[index] for index in members(operators)]
            sources = 0
            for index in members(operators):
                sources |= graph.predecessors[index]
            sums = self._costs[operators] = (
                fsum(one.forward.fixed for one in each),
                fsum(one.forward.per_sample for one in each),
                fsum(one.backward.fixed for one in each),
                fsum(one.backward.per_sample for one in each),
                sum(one.parameters for one in each),
                sum(one.activations for one in each),
                sum(graph.operators[index].output for index in members(sources & ~operators)),
            )
        return sums

"""Training of a plan's stage in its process."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

from mspipe_triton.errors import ConfigError
from mspipe_triton.pipeline.graphpipe.capture.load import Model
from mspipe_triton.pipeline.graphpipe.plan import PipelinePlan, PipelineStage
from mspipe_triton.pipeline.graphpipe.run.channels import GRADIENT, Channels
from mspipe_triton.pipeline.graphpipe.run.clock import Clock
from mspipe_triton.pipeline.graphpipe.run.exchange import Exchange
from mspipe_triton.pipeline.graphpipe.run.layout import Layout, Slice
from mspipe_triton.pipeline.graphpipe.run.operator_times import operator_seconds
from mspipe_triton.pipeline.graphpipe.run.passes import Passes
from mspipe_triton.pipeline.graphpipe.run.program import build_program
from mspipe_triton.pipeline.graphpipe.run.replicas import broadcast, sum_gradients
from mspipe_triton.pipeline.graphpipe.schedule import passes
from mspipe_triton.pipeline.graphpipe.timeline import PlanSpan
from mspipe_triton.pipeline.graphpipe.work import BACKWARD, FORWARD, SYNC


@dataclass(frozen=True)
class StepReport:
    """Report of a process on a mini-batch.

    Args:
        loss: the share of the loss that this process computed; the sum over processes is the mini-batch's.
        spans: its passes and its sync, in seconds of the host's wall clock.
        in_flight: micro-batches between their passes, at most.
        activations: bytes that autograd held between passes, at most; 0 unless measured.
    """

    loss: float
    spans: tuple[PlanSpan, ...]
    in_flight: int
    activations: int


class StageTrainer:
    """The stage of a plan that this process trains. `torch.distributed` is initialised: a process per device.

    All processes make their trainers at the same time, and then call the same methods.

    Args:
        plan: the plan.
        model: the module, which returns its loss, and example inputs; the same in all processes.
        optimizer: makes the optimiser of a stage's parameters.
        seed: of dropout; passes draw different numbers.
        device: of this process.

    Attributes:
        index: the stage's.
        replica: this process's place among the devices of the stage.
        parameters: those that the stage trains, by name in the module.
        state: parameters and buffers that the stage uses, by all their names in the module's `state_dict`.
        rest: entries of the module's `state_dict` that no stage uses.
        optimizer: updates the parameters; None if there are none.
        steps: mini-batches that it has been trained on.

    Raises:
        ConfigError: the number of processes is not that of the plan's devices.
        GraphError: the plan is for another model, torch cannot export the module, it does not return its loss, or a
            value without a dimension of samples crosses between stages whose passes have other samples.
    """

    def __init__(
        self,
        plan: PipelinePlan,
        model: Model,
        optimizer: Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer],
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        if dist.get_world_size() != plan.devices:
            raise ConfigError(
                f"the plan has {plan.devices} devices, but there are {dist.get_world_size()} processes; start as many "
                "processes as devices"
            )
        self.plan, self.seed, self.device, self.steps = plan, seed, torch.device(device), 0
        layout = Layout(plan)
        self.index, self.replica = layout.places[dist.get_rank()]
        self._layout = layout
        samples = len(layout.share(self.index, self.replica))
        self._program = build_program(plan, model, self.index, samples, self.device)
        self._inputs = tree_flatten((model.args, dict(model.kwargs)))
        pairs = sorted({(s.sender, s.receiver) for one in range(len(plan.stages)) for s in self._slices(one)})
        channels = Channels(pairs, self.device)
        self._exchange = Exchange(layout, self.index, self.replica, self._program, channels)
        groups = {stage.devices: dist.new_group(list(stage.devices)) for stage in plan.stages if len(stage.devices) > 1}
        self._group = groups.get(self.stage.devices)
        self._order = list(
            passes(self.stage.rhythm, self.stage.in_flight * self.stage.rhythm.micro_batch, plan.problem.batch)
        )
        self._place_state(model.module)
        self.optimizer = optimizer(self.parameters.values()) if self.parameters else None
        self._passes = Passes(self._program, self._placed, self._exchange)
        self._clock = Clock(self.device)

    @property
    def stage(self) -> PipelineStage:
        """The stage."""
        return self.plan.stages[self.index]

    def step(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], measured: bool = False) -> StepReport:
        """Train on a mini-batch, the same in all processes: all passes, the sync of gradients, and the update.

        Args:
            args: arguments of the module for the whole mini-batch.
            kwargs: the same, by keyword.
            measured: also measure what autograd holds between passes, which takes time.

        Raises:
            ConfigError: the mini-batch has another structure than the example inputs, or other shapes or types.
        """
        report = self._run(args, kwargs, measured)
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.steps += 1
        return report

    def gradients(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the gradients of a mini-batch by name, without an update; a parameter may have none."""
        self._run(args, kwargs, False)
        result = {name: each.grad for name, each in self.parameters.items() if each.grad is not None}
        for each in self.parameters.values():
            each.grad = None
        return result

    def operator_seconds(self) -> dict[str, tuple[float, float]]:
        """Return the seconds of a forward and of a backward pass of every operator of the stage, by name.

        They are those of this process's share of a micro-batch, while all processes measure. Nothing of the training
        changes.

        Raises:
            GraphError: an operator cannot run by itself.
        """
        dist.barrier()
        return operator_seconds(self._program, self._placed, self.device)

    def bytes_between(self, before: int, after: int) -> int:
        """Return the bytes that this process sends to a later stage, or receives from an earlier one, in a pass."""
        values = self._program.received.get(before, ()) if after == self.index else self._program.sent.get(after, ())
        return sum(prod(leaf.shape) * leaf.dtype.itemsize for value in values for leaf in value.leaves)

    def _slices(self, stage: int) -> Iterator[Slice]:
        for before in self.plan.stages[stage].after:
            yield from self._layout.slices(before, stage)

    def _place_state(self, module: nn.Module) -> None:
        """Move the state of the stage to the device, the same in all its processes."""
        state, names = self._program.state, self._program.names
        placed: dict[fx.Node, Tensor] = {}
        for node, value in state.items():
            moved = value.detach().to(self.device)
            trained = isinstance(value, nn.Parameter) and value.requires_grad
            placed[node] = nn.Parameter(moved) if trained else moved
        if self._group is not None:
            broadcast(placed.values(), self.stage.devices[0], self._group)
        tensors = module.state_dict(keep_vars=True)
        used = {id(tensors[name]) for name in names if name in tensors}
        here = {id(state[node]): value for node, value in placed.items()}
        self.state = {name: here[id(value)] for name, value in tensors.items() if id(value) in here}
        self.rest = {name: value.detach() for name, value in tensors.items() if id(value) not in used}
        self.parameters = {
            name: value
            for name, node in names.items()
            if node is not None and isinstance(value := placed[node], nn.Parameter)
        }
        self._placed = placed

    def _run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any], measured: bool) -> StepReport:
        """Run all passes of a mini-batch, and sum the gradients over the processes of the stage."""
        exchange, clock = self._exchange, self._clock
        inputs = self._flat(args, kwargs)
        work = self._passes
        work.loss = 0.0
        moments: list[tuple[str, int, Any, Any]] = []
        in_flight = activations = 0
        behind = self._layout.behind(self.index)
        exchange.expect(*self._order[0])
        for turn, (forward, number) in enumerate(self._order):
            if turn + 1 < len(self._order):
                exchange.expect(*self._order[turn + 1])
            if forward:
                received = exchange.inputs(number)
                rows = self._rows(inputs, number)
                start = clock.now()
                with self._random(number):
                    work.forward(number, rows, received, measured)
                del received, rows
            else:
                gradients = exchange.gradients(number)
                exchange.channels.settle(GRADIENT, number - behind)
                start = clock.now()
                work.backward(number, gradients)
                del gradients
            moments.append((FORWARD if forward else BACKWARD, number, start, clock.now()))
            in_flight = max(in_flight, len(work.live))
            activations = max(activations, work.saved_bytes() if measured else 0)
        if self._group is not None:
            start = clock.now()
            sum_gradients(self.parameters.values(), self._group)
            if self._program.changes:
                buffers = [each for each in self._placed.values() if not isinstance(each, nn.Parameter)]
                broadcast(buffers, self.stage.devices[0], self._group)
            moments.append((SYNC, 0, start, clock.now()))
        exchange.channels.settle_all()
        spans = tuple(
            PlanSpan(self.index, kind, number, clock.seconds(start), clock.seconds(end), None, dist.get_rank())
            for kind, number, start, end in moments
        )
        return StepReport(float(work.loss), spans, in_flight, activations)

    @contextmanager
    def _random(self, number: int) -> Iterator[None]:
        """Seed the random numbers of a pass, so that they depend neither on what ran before nor on other passes."""
        if not self._program.draws:
            yield
            return
        place = repr((self.seed, self.steps, self.index, self.replica, number))
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(zlib.crc32(place.encode()))
            yield

    def _flat(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Return the inputs of a mini-batch in the order of the trace's.

        Raises:
            ConfigError: they do not fit the example inputs.
        """
        examples, spec = self._inputs
        names = spec.unflatten(range(len(examples)))[1]
        ordered = {name: kwargs[name] for name in names if name in kwargs} | dict(kwargs)
        values, actual = tree_flatten((tuple(args), ordered))
        if actual != spec:
            raise ConfigError(
                f"a mini-batch has {len(values)} inputs in another structure than the {len(examples)} example inputs "
                "of the model; return the same arguments from --data as from --model"
            )
        for place, (value, example) in enumerate(zip(values, examples, strict=True)):
            if isinstance(example, Tensor):
                shape = (self.plan.problem.batch, *example.shape[1:])
                if not isinstance(value, Tensor) or value.shape != shape or value.dtype != example.dtype:
                    kind = f"{tuple(value.shape)} and type {value.dtype}" if isinstance(value, Tensor) else repr(value)
                    raise ConfigError(
                        f"input {place} of a mini-batch is {kind}; by the plan's batch and the model's example inputs "
                        f"it must have shape {shape} and type {example.dtype}"
                    )
            elif value != example:
                raise ConfigError(
                    f"input {place} of a mini-batch is {value!r}, but the model was traced with {example!r}"
                )
        return values

    def _rows(self, inputs: Sequence[Any], number: int) -> dict[fx.Node, Any]:
        """Return the rows of the inputs that the stage uses in a pass."""
        samples = self._layout.samples(self.index, self.replica, number)
        entries = set(self._program.piece.entries)
        return {
            node: value[samples.start : samples.stop].to(self.device) if isinstance(value, Tensor) else value
            for node, value in zip(self._program.inputs, inputs, strict=True)
            if node in entries
        }

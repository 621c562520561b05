"""A run's schedule at work: the batches of an epoch through the stages, planned, measured and planned again."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping

from mspipe_triton.kernels.fusion import compile_seconds
from mspipe_triton.pipeline.engine import PATIENCE, Engine, run_serial
from mspipe_triton.pipeline.flight import Span, StageTimes
from mspipe_triton.pipeline.online import OnlinePlanner, Replanned, guarded
from mspipe_triton.pipeline.plan import Plan
from mspipe_triton.pipeline.schedules import RESOURCES
from mspipe_triton.pipeline.trace import Trace
from mspipe_triton.training.batch import Batch, Trained
from mspipe_triton.training.lanes import lanes, serial_lanes
from mspipe_triton.training.session import Session

COMPUTE = RESOURCES["train"]


def own_compile_seconds() -> float:
    """Seconds that the current thread has spent compiling."""
    return compile_seconds(own=True)


class Scheduler:
    """Takes epochs of batches through training under the run's schedule.

    Args:
        session: what is trained; its config names schedule and staleness.
        replanned: told of every plan that comes into force, with the epoch and the iteration.
        trace: collects every stage's start and end, if given.
        patience: seconds without any stage ending after which the run is given up.
        stage_seconds: of every stage, as far as they are known beforehand, to plan with at first.
    """

    def __init__(
        self,
        session: Session,
        replanned: Callable[[Replanned, int, int], None],
        trace: Trace | None = None,
        patience: float = PATIENCE,
        stage_seconds: Mapping[str, float] | None = None,
    ) -> None:
        settings, staleness = session.settings, session.config.train.staleness
        self.session, self.replanned, self.trace, self.patience = session, replanned, trace, patience
        self.schedule = settings.schedule
        self.planner = OnlinePlanner(
            self.schedule, staleness if staleness >= 0 else None, stage_seconds or None, depth=settings.prefetch
        )
        self.started = False
        others = [name for name in self.planner.plan.graph.by_resource if name != COMPUTE]
        made = serial_lanes if self.schedule == "serial" else lanes
        device = session.state.placement.device
        self.lanes = made(device, COMPUTE, others, settings.threads, settings.host_threads)

    def run(self, items: Iterable[Batch], epoch: int, times: StageTimes) -> Generator[Trained]:
        """Train on batches; yields each iteration that is done, in order, and leaves its stage times in `times`."""
        session, plan = self.session, self.planner.plan
        if not self.started:
            self.started = True
            self._announce(Replanned(None, plan), epoch, 0)
        elif self.trace is not None:
            self.trace.plan(plan)
        functions = session.iteration.training_stages()
        engine: Engine | None = None

        def observe(spans: list[Span]) -> None:
            times.add(spans)
            if self.trace is not None:
                self.trace.add(epoch, spans)
            change = self.planner.observe(spans)
            if change is not None:
                if engine is not None:
                    engine.adopt(change.new.graph, guarded(change.new))
                self._announce(change, epoch, spans[0].iteration)

        if self.schedule == "serial":
            results = run_serial(plan.graph, functions, items, observe, own_compile_seconds, self.lanes)
        else:
            engine = Engine(
                plan.graph, functions, guarded(plan), COMPUTE, self.lanes, observe, own_compile_seconds, self.patience
            )
            results = engine.run(items)
        yield from results

    def final_plan(self, measured: Mapping[str, float]) -> Plan:
        """The plan in force, or the one for an epoch's measured stage times where too few were seen to plan with."""
        return self.planner.plan_for(measured) if self.planner.guessed else self.planner.plan

    def _announce(self, change: Replanned, epoch: int, iteration: int) -> None:
        if self.trace is not None:
            self.trace.plan(change.new)
        self.replanned(change, epoch, iteration)

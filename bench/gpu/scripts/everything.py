"""All figures, for a machine with time: every stream, model and size, every kernel, torch.compile, the schedules."""

from __future__ import annotations

from dataclasses import replace

from bench.cases.random_batch import GDELT, REDDIT, WIKI
from bench.cases.registry import OPERATIONS
from bench.gpu.measures import kernel_timings, peers, resident_times
from bench.gpu.scripts import first, second
from bench.gpu.setup import EVERY, MODELS, SIZES, STREAMS, TINY, Setup
from bench.gpu.units import Phase, Unit

CASES = [*WIKI, *REDDIT[1:], *GDELT[1:]]
COMPILED = [WIKI[1], WIKI[2]]  # each takes seconds to compile


def phases(setup: Setup) -> list[Phase]:
    """The first and second scripts' phases, and behind them what these leave out."""
    name, sizes, streams = ("WIKI", SIZES, list(STREAMS))
    if setup.quick:
        name, sizes, streams = TINY.name, (TINY.batch,), [TINY.name]
    before = [*first.phases(setup), *second.phases(setup)]
    measured = {unit.case for phase in before for unit in phase.units if unit.part == "steps"}
    resident = [
        *(
            Unit("steps", resident_times.steps, (stream, size, kind))
            for stream in streams
            for kind in EVERY
            for size in sizes
            if (stream, size, kind) not in measured
        ),
        *(Unit("stages", resident_times.stages, (name, sizes[len(sizes) // 2], kind)) for kind in MODELS),
        *(
            Unit("profile", resident_times.profile, (name, size, kind), traced=True)
            for kind in MODELS
            for size in sizes
        ),
        Unit("compiled", peers.compiled, seconds=240),
        *(Unit("schedules", peers.schedules, (kind,)) for kind in MODELS[: 1 if setup.quick else None]),
    ]
    kernels = [
        Unit("timings", kernel_timings.timings, (operation, shape))
        for operation in OPERATIONS
        for shape in (CASES[:1] if setup.quick else CASES)
    ]
    compiled = [
        Unit("compile", kernel_timings.timings, (operation, shape, True), seconds=240)
        for operation in OPERATIONS
        for shape in ([] if setup.quick else COMPILED)
    ]
    made = [
        *(replace(phase, name=f"first {phase.name}") for phase in first.phases(setup)),
        *(replace(phase, name=f"second {phase.name}") for phase in second.phases(setup)),
        Phase("resident", tuple(resident), 900),
        Phase("kernels", tuple(kernels), 900),
        Phase("torch.compile", tuple(compiled), 900),
    ]
    return [phase for phase in made if phase.units]

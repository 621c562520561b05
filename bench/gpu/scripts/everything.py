"""All figures, for a machine with more time: streams, models, sizes, kernels, torch.compile and the schedules."""

from __future__ import annotations

from dataclasses import replace

from bench.cases.random_batch import GDELT, REDDIT, WIKI
from bench.cases.registry import OPERATIONS
from bench.gpu.measures import kernel_timings, peers, resident_times
from bench.gpu.scripts import first, second
from bench.gpu.setup import ALL_MODELS, MODELS, SIZES, STREAMS, TINY, Setup
from bench.gpu.units import Phase, Unit

CASES = [*WIKI, *REDDIT[1:], *GDELT[1:]]
COMPILE_CASES = [WIKI[1], WIKI[2]]  # few, since each compiles for seconds


def phases(setup: Setup) -> list[Phase]:
    """List the phases of the first and second scripts, then the measurements that those leave out."""
    name, sizes, streams = ("WIKI", SIZES, list(STREAMS))
    if setup.quick:
        name, sizes, streams = TINY.name, (TINY.batch,), [TINY.name]
    shorter = [*first.phases(setup), *second.phases(setup)]
    step_cases = {unit.case for phase in shorter for unit in phase.units if unit.part == "steps"}
    resident = [
        *(
            Unit("steps", resident_times.steps, (stream, size, kind))
            for stream in streams
            for kind in ALL_MODELS
            for size in sizes
            if (stream, size, kind) not in step_cases
        ),
        *(Unit("stages", resident_times.stages, (name, sizes[len(sizes) // 2], kind)) for kind in MODELS),
        *(
            Unit("profile", resident_times.profile, (name, size, kind), traced=True)
            for kind in MODELS
            for size in sizes
        ),
        Unit("compiled", peers.compilation, seconds=240),
        *(Unit("schedules", peers.schedules, (kind,)) for kind in MODELS[: 1 if setup.quick else None]),
    ]
    kernels = [
        Unit("timings", kernel_timings.timings, (operation, shape))
        for operation in OPERATIONS
        for shape in (CASES[:1] if setup.quick else CASES)
    ]
    compilations = [
        Unit("compile", kernel_timings.timings, (operation, shape, True), seconds=240)
        for operation in OPERATIONS
        for shape in ([] if setup.quick else COMPILE_CASES)
    ]
    result = [
        *(replace(phase, name=f"first {phase.name}") for phase in first.phases(setup)),
        *(replace(phase, name=f"second {phase.name}") for phase in second.phases(setup)),
        Phase("resident", tuple(resident), 900),
        Phase("kernels", tuple(kernels), 900),
        Phase("torch.compile", tuple(compilations), 900),
    ]
    return [phase for phase in result if phase.units]

"""The first six minutes on a GPU: correctness, then TGN's headline figures, then the four main kernels."""

from __future__ import annotations

from bench.cases.random_batch import WIKI
from bench.cases.registry import OPERATIONS
from bench.gpu.measures import kernel_checks, kernel_timings, peers, resident_checks, resident_times
from bench.gpu.setup import ALL_MODELS, TINY, WAYS, Setup
from bench.gpu.units import Phase, Unit

MAIN = ("memory_gru", "attention_layer", "link_loss", "aggregate_messages")
HEADLINE = [(stream, size) for stream in ("WIKI", "GDELT") for size in (600, 4000, 200)]
# Without it, torch refuses cuBLAS in deterministic mode.
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def phases(setup: Setup) -> list[Phase]:
    """List the phases: checks in parallel, then figures one after the other."""
    checks = [*resident(setup), *kernels(setup)]
    streams = [(TINY.name, TINY.batch)] if setup.quick else HEADLINE
    sizes = [TINY.batch] if setup.quick else [600, 200]
    headline = [
        Unit("roofline", resident_times.roofline),
        *(Unit("steps", resident_times.steps, (*case, "tgn"), seconds=45) for case in streams),
        *(Unit("profile", resident_times.profile, (streams[0][0], size, "tgn"), traced=True) for size in sizes[:1]),
        *(Unit("pyg", peers.pyg, (size,), seconds=45) for size in sizes),
    ]
    shapes = WIKI[:1] if setup.quick else [WIKI[1], WIKI[0], WIKI[2]]
    timings = [Unit("timings", kernel_timings.timings, (name, shape)) for shape in shapes for name in MAIN]
    return [
        Phase("correctness", tuple(checks), 130, workers=0, environment=DETERMINISTIC),
        Phase("headline", tuple(headline), 150),
        Phase("timings", tuple(timings), 60),
    ]


def resident(setup: Setup) -> list[Unit]:
    """List the checks of resident training, the longest first."""
    ways = [way for way, settings in WAYS.items() if setup.gpu or settings.captured]
    return [
        *(
            Unit("losses", resident_checks.losses, (variant, way), checks=True)
            for variant in resident_checks.VARIANTS
            for way in ways
        ),
        *(Unit("iteration", resident_checks.iteration, (kind,), checks=True) for kind in ALL_MODELS),
        *(Unit("waits", resident_checks.waits, (kind, ways[0]), checks=True, traced=True) for kind in ALL_MODELS),
    ]


def kernels(setup: Setup) -> list[Unit]:
    """List the checks of every operation, large shapes first."""
    names = [shape.name for shape in kernel_checks.shapes(setup)]
    return [
        *(
            Unit("values", kernel_checks.values, (name, shape), checks=True)
            for shape in reversed(names)
            for name in OPERATIONS
        ),
        *(Unit("kernels", kernel_checks.behaviour, (name,), checks=True) for name in OPERATIONS),
        *(Unit("deterministic", kernel_checks.deterministic, (name,), checks=True) for name in OPERATIONS),
    ]

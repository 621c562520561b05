"""Tuning kernels on the calls of a training iteration: a search per kernel, then a comparison with what ships."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from mspipe_triton.errors import TuningError
from mspipe_triton.kernels.runtime.launch import KERNELS, VARIANTS, VARIANTS_CHOSEN, Config, Kernel
from mspipe_triton.tuning.kernels.calls import Call
from mspipe_triton.tuning.kernels.gate import compute_capability, first_line, gate, unfit
from mspipe_triton.tuning.kernels.operations import seconds
from mspipe_triton.tuning.kernels.space import config_point, kernel_config, kernel_space
from mspipe_triton.tuning.study.comparison import compare
from mspipe_triton.tuning.study.search import Cutoff, Search, Trial
from mspipe_triton.tuning.study.space import Point

Observe = Callable[[str, Trial], None]
ROUNDS = 5  # per comparison; each side runs twice per round
_SEARCHING = 0.8  # share of a kernel's budget; the rest is for the shipped configuration's gate and the comparison


@dataclass(frozen=True)
class KernelChoice:
    """The result of tuning the kernels.

    Args:
        kernels: by name and variant of the arithmetic, the "blocks", "num_warps" and "num_stages" that were faster than
            the shipped ones by more than the noise; other kernels keep the shipped ones.
        variants: by operation, the variant of its kernels.
        facts: of the search, a row per kernel and operation: trials, gain, noise, and why the shipped one stays.
    """

    kernels: dict[str, dict[str, dict[str, Any]]]
    variants: dict[str, str]
    facts: dict[str, Any]

    def apply(self) -> None:
        """Use these configurations and variants in this process."""
        for name, variants in self.kernels.items():
            KERNELS[name].chosen.update({variant: Config(**config) for variant, config in variants.items()})
        VARIANTS_CHOSEN.update(self.variants)


@dataclass(eq=False)
class _Part:
    """A kernel in one variant of its arithmetic, the calls to time, and the calls whose gate checks it."""

    kernel: Kernel
    variant: str
    timed_calls: list[Call] = field(default_factory=list)
    gated_calls: list[Call] = field(default_factory=list)
    share: float = 0.0

    @property
    def name(self) -> str:
        return f"{self.kernel.name} {self.variant}"

    @property
    def shipped(self) -> Config:
        return self.kernel.configs[self.variant][0]


def tune_kernels(
    calls: Iterable[Call],
    budget: float,
    storage: Path | None = None,
    seed: int = 0,
    observe: Observe = lambda name, trial: None,
    measure: Callable[[Call], float] = seconds,
    clock: Callable[[], float] = time.monotonic,
) -> KernelChoice:
    """Find for each kernel the fastest configuration in these calls that computes the same.

    The kernels that use the most time come first, and the budget is split by that time. A configuration that does not
    fit the GPU (`unfit`) is refused, and one that makes a call wrong (`gate`) fails; only the others are timed. The
    best one runs against the shipped one in turns, and replaces it if the gain exceeds the noise of those turns; so do
    the variants of an operation, each with its own kernels tuned. Afterwards the configurations and variants in force
    are the same as before, even after an exception.

    Args:
        calls: from `record_calls`.
        budget: seconds in total; a kernel whose turn comes too late keeps its shipped configuration.
        storage: an SQLite file for the searches, which are resumed.
        seed: of the searches.
        observe: gets each trial, with the kernel's name and variant.
        measure: returns the seconds of a call with the configurations in force.

    Raises:
        TuningError: the GPU no longer answers, after a kernel that made an invalid memory access.
    """
    with _as_shipped():
        return _Tuner(list(calls), budget, storage, seed, observe, measure, clock).run()


@contextmanager
def _as_shipped() -> Iterator[None]:
    """Start with the shipped configurations and variants; at the end, restore those in force before."""
    configs, variants = {name: dict(kernel.chosen) for name, kernel in KERNELS.items()}, dict(VARIANTS_CHOSEN)
    for kernel in KERNELS.values():
        kernel.chosen.update({variant: choices[0] for variant, choices in kernel.configs.items()})
    try:
        yield
    finally:
        for name, kernel in KERNELS.items():
            kernel.chosen.clear()
            kernel.chosen.update(configs[name])
        VARIANTS_CHOSEN.update(variants)


class _Tuner:
    """One tuning of the kernels; see `tune_kernels`."""

    def __init__(
        self, calls: list[Call], budget: float, storage: Path | None, seed: int, observe: Observe,
        measure: Callable[[Call], float], clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self.storage, self.seed, self.observe = storage, seed, observe
        self.measure, self.clock, self.start = measure, clock, clock()
        self.until = self.start + budget
        self.capability = compute_capability()
        self.notices: dict[str, None] = {}
        self.operations = {
            name: {variant: [call.with_variant(variant) for call in calls if call.name == name] for variant in variants}
            for name, variants in VARIANTS.items()
            if any(call.name == name for call in calls)
        }
        self.calls = [call for call in calls if call.name not in self.operations]
        self.calls += [call for variants in self.operations.values() for group in variants.values() for call in group]

    def run(self) -> KernelChoice:
        """Tune every kernel, then every operation with several variants."""
        kernels: dict[str, dict[str, dict[str, Any]]] = {}
        facts: dict[str, dict[str, Any]] = {}
        parts = self._parts()
        total = sum(part.share for part in parts)
        for place, part in enumerate(parts):
            remaining, rest = self.until - self.clock(), sum(other.share for other in parts[place:])
            row = self._tune(part, remaining * part.share / rest)
            facts[part.name] = {"share": part.share / total, **row}
            if row["tuned"]:
                config = part.kernel.chosen[part.variant]
                kernels.setdefault(part.kernel.name, {})[part.variant] = {
                    "blocks": dict(config.blocks), "num_warps": config.num_warps, "num_stages": config.num_stages,
                }  # fmt: skip
        choices, variant_facts = {}, {}
        for operation, variants in self.operations.items():
            choices[operation], variant_facts[operation] = self._compare_variants(operation, variants)
        totals = {"kernel_seconds": self.clock() - self.start, "kernel_notices": list(self.notices)}
        return KernelChoice(kernels, choices, {"kernels": facts, "variants": variant_facts, **totals})

    def _parts(self) -> list[_Part]:
        """Return the kernels that the calls launch, by share of time; a call's kernels share its time equally."""
        parts: dict[tuple[str, str], _Part] = {}
        calls: list[Call] = []
        for call in self.calls:
            kernels = {(launch.kernel.name, launch.variant) for launch in call.launches()}
            try:
                duration = call.times * self.measure(call)
            except Exception as error:  # of a variant that training has not run yet
                self.notices[f"{call.name} cannot be tuned: {self._reason(error)}"] = None
                continue
            calls.append(call)
            for name, variant in sorted(kernels):
                part = parts.setdefault((name, variant), _Part(KERNELS[name], variant))
                part.timed_calls.append(call)
                part.share += duration / len(kernels)
        for call in calls:
            launches = [] if call.backward else call.launches(whole=True)
            for key in {(launch.kernel.name, launch.variant) for launch in launches}:
                if key in parts:
                    parts[key].gated_calls.append(call)
        return sorted(parts.values(), key=lambda part: (-part.share, part.name))

    def _tune(self, part: _Part, budget: float) -> dict[str, Any]:
        """Search one kernel, keep the best configuration in force if it is better, and return the facts."""
        row = {"tuned": False}
        if not part.gated_calls:
            return {**row, "reason": "no call can check its results"}
        if budget <= 0:
            return {**row, "reason": "no time was left for it"}
        start = self.clock()
        shipped = self._attempt(part, part.shipped)
        if isinstance(shipped, str):
            return {**row, "reason": f"as shipped: {shipped}"}

        def measure(point: Point, cutoff: Cutoff) -> Mapping[str, float]:
            times = self._attempt(part, kernel_config(part.kernel, part.variant, point), shipped, cutoff)
            if isinstance(times, str):
                raise RuntimeError(times)
            return {"score": sum(shipped[: len(times)]) / sum(times), "seconds": sum(times)}

        def refuse(point: Point) -> str | None:
            config = kernel_config(part.kernel, part.variant, point)
            if self.capability is None:
                return None
            return unfit(part.kernel, part.variant, config, part.timed_calls, self.capability)

        space = kernel_space(part.kernel, part.variant)
        search = Search(space, part.name, self.storage, self.seed, refuse, self.clock)
        remaining = budget * _SEARCHING - (self.clock() - start)
        result = search.run(measure, remaining, observe=lambda trial: self.observe(part.name, trial))
        if search.notice is not None:
            self.notices[search.notice] = None
        score = result.score if math.isfinite(result.score) else None
        facts = {**row, "trials": len(result.trials), "score": score}
        part.kernel.chosen[part.variant] = part.shipped
        best = kernel_config(part.kernel, part.variant, result.point)
        if config_point(best) == config_point(part.shipped):
            return {**facts, "reason": "the shipped one is the fastest"}
        times = self._attempt(part, best, shipped)  # a resumed search may have measured it in another process
        if isinstance(times, str):
            part.kernel.chosen[part.variant] = part.shipped
            return {**facts, "reason": times}
        return {**facts, **self._confirm(part, best)}

    def _attempt(
        self, part: _Part, config: Config, shipped: list[float] | None = None, cutoff: Cutoff | None = None
    ) -> list[float] | str:
        """Return seconds in each call under a configuration, which stays in force; or why it must not be used."""
        part.kernel.chosen[part.variant] = config
        times: list[float] = []
        try:
            for call in part.gated_calls:
                reason = gate(call)
                if reason is not None:
                    return reason
            for call in part.timed_calls:
                times.append(call.times * self.measure(call))
                if cutoff is not None and shipped is not None and cutoff(sum(shipped[: len(times)]) / sum(times)):
                    break
        except Exception as error:  # Triton and torch raise various errors for a configuration that cannot run
            return self._reason(error)
        return times

    def _confirm(self, part: _Part, best: Config) -> dict[str, Any]:
        """Compare the best configuration with the shipped one; the better one stays in force."""

        def total(config: Config) -> float:
            part.kernel.chosen[part.variant] = config
            return sum(call.times * self.measure(call) for call in part.timed_calls)

        better, facts = self._compare(lambda: total(best), lambda: total(part.shipped))
        part.kernel.chosen[part.variant] = best if better else part.shipped
        return {**facts, "tuned": better}

    def _compare_variants(self, operation: str, variants: Mapping[str, list[Call]]) -> tuple[str, dict[str, Any]]:
        """Return the fastest variant of an operation, each with its kernels in force, and the facts per variant."""
        best, facts = VARIANTS_CHOSEN[operation], dict[str, Any]()

        def total(variant: str) -> float:
            return sum(call.times * self.measure(call) for call in variants[variant])

        for other in variants:
            if other != VARIANTS_CHOSEN[operation]:
                try:
                    reason = next(filter(None, map(gate, variants[other])), None)
                    if reason is None:
                        better, facts[other] = self._compare(partial(total, other), partial(total, best))
                        best = other if better else best
                except Exception as error:  # Triton and torch raise various errors for kernels that cannot run
                    reason = self._reason(error)
                if reason is not None:
                    facts[other] = {"reason": reason}
        return best, facts

    def _compare(self, candidate: Callable[[], float], shipped: Callable[[], float]) -> tuple[bool, dict[str, Any]]:
        """Return True if the candidate is faster by more than the noise, measured in turns, with gain and noise."""
        rounds = []
        for _ in range(ROUNDS):
            c, a, d, b = (1 / measure() for measure in (shipped, candidate, shipped, candidate))
            rounds.append(((a, b), (c, d)))
        gain, noise = compare(rounds)
        facts: dict[str, Any] = {"gain": gain, "noise": noise}
        return gain > noise, facts if gain > noise else {**facts, "reason": "the gain is within the noise"}

    def _reason(self, error: Exception) -> str:
        """Return an error as one line; raises if the GPU is lost, since later measurements would mean nothing."""
        if torch.cuda.is_initialized():
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                raise TuningError(
                    f"the GPU no longer answers after a kernel's trial ({first_line(error)}); "
                    "start again to resume the search at the next trial"
                ) from error
        return f"{type(error).__name__}: {first_line(error)}"

"""Tuning the kernels on the calls that a training iteration makes: search each, then confirm it against the shipped."""

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
from mspipe_triton.tuning.study.search import Cut, Search, Told
from mspipe_triton.tuning.study.space import Point

Observe = Callable[[str, Told], None]
ROUNDS = 5  # of a confirmation, which takes each side twice a round
_SEARCHING = 0.8  # of a kernel's budget; the rest is for the gate of the shipped configuration and for confirming


@dataclass(frozen=True)
class KernelChoice:
    """What tuning the kernels has found.

    Args:
        kernels: by name and variant of the arithmetic, the "blocks", "num_warps" and "num_stages" that were faster than
            the shipped ones by more than the noise; what is not named stays as it ships.
        variants: by operation, the variant of its kernels.
        facts: of the search, a record for each kernel and operation: what was tried, gain, noise, and why it stayed.
    """

    kernels: dict[str, dict[str, dict[str, Any]]]
    variants: dict[str, str]
    facts: dict[str, Any]

    def apply(self) -> None:
        """Put it in force for this process."""
        for name, variants in self.kernels.items():
            KERNELS[name].chosen.update({variant: Config(**chosen) for variant, chosen in variants.items()})
        VARIANTS_CHOSEN.update(self.variants)


@dataclass(eq=False)
class _Part:
    """A kernel in one variant of its arithmetic, the calls that launch it, and those that tell whether it is right."""

    kernel: Kernel
    variant: str
    timed: list[Call] = field(default_factory=list)
    judged: list[Call] = field(default_factory=list)
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
    observe: Observe = lambda name, told: None,
    measure: Callable[[Call], float] = seconds,
    clock: Callable[[], float] = time.monotonic,
) -> KernelChoice:
    """Find for each kernel the configuration that is fastest in these calls and computes the same.

    The kernels that take the most time come first, and the budget is split by that time. A configuration is refused
    where it does not fit the GPU (`unfit`), and fails where a call comes out wrong (`gate`); only then it is timed. The
    best one runs against the shipped one in turns, and takes its place where it is faster by more than those turns
    differ among themselves; so do the variants of an operation, each with its own kernels tuned. Nothing stays changed:
    configurations and variants in force are afterwards what they were before, whatever happens.

    Args:
        calls: as `recorded` gives them.
        budget: seconds for all of it; a kernel whose turn comes too late stays as it ships.
        storage: an SQLite file for the searches, which are resumed.
        seed: of the searches.
        observe: told each trial, with the kernel's name and variant.
        measure: seconds of a call by the configurations in force.

    Raises:
        TuningError: the GPU answers no more, after a kernel that read or wrote what it must not.
    """
    with _as_shipped():
        return _Tuner(list(calls), budget, storage, seed, observe, measure, clock).run()


@contextmanager
def _as_shipped() -> Iterator[None]:
    """Within it, nothing is tuned at first; afterwards, all is in force that was before."""
    chosen, variants = {name: dict(kernel.chosen) for name, kernel in KERNELS.items()}, dict(VARIANTS_CHOSEN)
    for kernel in KERNELS.values():
        kernel.chosen.update({variant: configs[0] for variant, configs in kernel.configs.items()})
    try:
        yield
    finally:
        for name, kernel in KERNELS.items():
            kernel.chosen.clear()
            kernel.chosen.update(chosen[name])
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
            name: {variant: [call.taking(variant) for call in calls if call.name == name] for variant in variants}
            for name, variants in VARIANTS.items()
            if any(call.name == name for call in calls)
        }
        self.calls = [call for call in calls if call.name not in self.operations]
        self.calls += [call for variants in self.operations.values() for same in variants.values() for call in same]

    def run(self) -> KernelChoice:
        """Every kernel, then every operation of several variants."""
        kernels: dict[str, dict[str, dict[str, Any]]] = {}
        facts: dict[str, dict[str, Any]] = {}
        parts = self._parts()
        whole = sum(part.share for part in parts)
        for place, part in enumerate(parts):
            left, rest = self.until - self.clock(), sum(other.share for other in parts[place:])
            found = self._tuned(part, left * part.share / rest)
            facts[part.name] = {"share": part.share / whole, **found}
            if found["tuned"]:
                chosen = part.kernel.chosen[part.variant]
                kernels.setdefault(part.kernel.name, {})[part.variant] = {
                    "blocks": dict(chosen.blocks), "num_warps": chosen.num_warps, "num_stages": chosen.num_stages,
                }  # fmt: skip
        chosen_variants, compared = {}, {}
        for operation, variants in self.operations.items():
            chosen_variants[operation], compared[operation] = self._compared(operation, variants)
        spent = {"kernel_seconds": self.clock() - self.start, "kernel_notices": list(self.notices)}
        return KernelChoice(kernels, chosen_variants, {"kernels": facts, "variants": compared, **spent})

    def _parts(self) -> list[_Part]:
        """What the calls launch, by share of time; a call's time counts in equal parts for its kernels."""
        parts: dict[tuple[str, str], _Part] = {}
        calls: list[Call] = []
        for call in self.calls:
            launched = {(launch.kernel.name, launch.variant) for launch in call.launches()}
            try:
                taken = call.times * self.measure(call)
            except Exception as error:  # of a variant that training has not run yet
                self.notices[f"{call.name} cannot be tuned: {self._told(error)}"] = None
                continue
            calls.append(call)
            for name, variant in sorted(launched):
                part = parts.setdefault((name, variant), _Part(KERNELS[name], variant))
                part.timed.append(call)
                part.share += taken / len(launched)
        for call in calls:
            whole = [] if call.backward else call.launches(whole=True)
            for key in {(launch.kernel.name, launch.variant) for launch in whole}:
                if key in parts:
                    parts[key].judged.append(call)
        return sorted(parts.values(), key=lambda part: (-part.share, part.name))

    def _tuned(self, part: _Part, budget: float) -> dict[str, Any]:
        """Search one kernel, put the best configuration in force if it is better, and tell what happened."""
        kept = {"tuned": False}
        if not part.judged:
            return {**kept, "reason": "no call tells whether it is right"}
        if budget <= 0:
            return {**kept, "reason": "no time was left for it"}
        start = self.clock()
        shipped = self._attempt(part, part.shipped)
        if isinstance(shipped, str):
            return {**kept, "reason": f"as shipped: {shipped}"}

        def measured(point: Point, cut: Cut) -> Mapping[str, float]:
            found = self._attempt(part, kernel_config(part.kernel, part.variant, point), shipped, cut)
            if isinstance(found, str):
                raise RuntimeError(found)
            return {"score": sum(shipped[: len(found)]) / sum(found), "seconds": sum(found)}

        def refused(point: Point) -> str | None:
            config = kernel_config(part.kernel, part.variant, point)
            capability = self.capability
            return None if capability is None else unfit(part.kernel, part.variant, config, part.timed, capability)

        space = kernel_space(part.kernel, part.variant)
        search = Search(space, part.name, self.storage, self.seed, refused, self.clock)
        left = budget * _SEARCHING - (self.clock() - start)
        found = search.run(measured, left, observe=lambda told: self.observe(part.name, told))
        if search.notice is not None:
            self.notices[search.notice] = None
        facts = {**kept, "trials": len(found.told), "score": found.score if math.isfinite(found.score) else None}
        part.kernel.chosen[part.variant] = part.shipped
        best = kernel_config(part.kernel, part.variant, found.point)
        if config_point(best) == config_point(part.shipped):
            return {**facts, "reason": "the shipped one is the fastest"}
        again = self._attempt(part, best, shipped)  # a resumed search may have measured it in another process
        if isinstance(again, str):
            part.kernel.chosen[part.variant] = part.shipped
            return {**facts, "reason": again}
        return {**facts, **self._confirmed(part, best)}

    def _attempt(
        self, part: _Part, config: Config, shipped: list[float] | None = None, cut: Cut | None = None
    ) -> list[float] | str:
        """Seconds in each call under a configuration, which stays in force; or why it must not be used."""
        part.kernel.chosen[part.variant] = config
        taken: list[float] = []
        try:
            for call in part.judged:
                reason = gate(call)
                if reason is not None:
                    return reason
            for call in part.timed:
                taken.append(call.times * self.measure(call))
                if cut is not None and shipped is not None and cut(sum(shipped[: len(taken)]) / sum(taken)):
                    break
        except Exception as error:  # whatever Triton and torch raise of a configuration that they cannot run
            return self._told(error)
        return taken

    def _confirmed(self, part: _Part, best: Config) -> dict[str, Any]:
        """The best configuration beside the shipped one; the better stays in force."""

        def under(config: Config) -> float:
            part.kernel.chosen[part.variant] = config
            return sum(call.times * self.measure(call) for call in part.timed)

        better, facts = self._beside(lambda: under(best), lambda: under(part.shipped))
        part.kernel.chosen[part.variant] = best if better else part.shipped
        return {**facts, "tuned": better}

    def _compared(self, operation: str, variants: Mapping[str, list[Call]]) -> tuple[str, dict[str, Any]]:
        """The fastest variant of an operation, each with the kernels in force, and how it compares with the shipped."""
        chosen, facts = VARIANTS_CHOSEN[operation], dict[str, Any]()

        def taken(variant: str) -> float:
            return sum(call.times * self.measure(call) for call in variants[variant])

        for other in variants:
            if other != VARIANTS_CHOSEN[operation]:
                try:
                    reason = next(filter(None, map(gate, variants[other])), None)
                    if reason is None:
                        better, facts[other] = self._beside(partial(taken, other), partial(taken, chosen))
                        chosen = other if better else chosen
                except Exception as error:  # whatever Triton and torch raise of kernels that they cannot run
                    reason = self._told(error)
                if reason is not None:
                    facts[other] = {"reason": reason}
        return chosen, facts

    def _beside(self, mine: Callable[[], float], shipped: Callable[[], float]) -> tuple[bool, dict[str, Any]]:
        """Whether one way is faster than another by more than the noise, measured in turns; gain and noise."""
        rounds = []
        for _ in range(ROUNDS):
            c, a, d, b = (1 / way() for way in (shipped, mine, shipped, mine))
            rounds.append(((a, b), (c, d)))
        gain, noise = compare(rounds)
        facts: dict[str, Any] = {"gain": gain, "noise": noise}
        return gain > noise, facts if gain > noise else {**facts, "reason": "the gain is within the noise"}

    def _told(self, error: Exception) -> str:
        """An error in one line; raises where it has cost the GPU, after which nothing measured there means anything."""
        if torch.cuda.is_initialized():
            try:
                torch.cuda.synchronize()
            except RuntimeError:
                raise TuningError(
                    f"the GPU answers no more after a kernel's trial ({first_line(error)}); "
                    "start again, and the search goes on from the next trial"
                ) from error
        return f"{type(error).__name__}: {first_line(error)}"

"""Tuning profiles: the fastest settings for a model, data set and machine; checked when read, and applied."""

from __future__ import annotations

import json
import math
import reprlib
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any

from mspipe_triton.errors import ConfigError, InputError
from mspipe_triton.execution import RunSettings
from mspipe_triton.kernels.runtime.launch import KERNELS, VARIANTS, VARIANTS_CHOSEN, Config, Kernel
from mspipe_triton.pipeline.plan import make_plan
from mspipe_triton.pipeline.schedules import stage_names
from mspipe_triton.tuning.profile.key import Key, kernel_sources

SCHEMA = 1
STATISTICS = ("median", "p90", "mean")
LARGEST = {"prefetch": 64, "threads": 1024, "host_threads": 1024}
_SHIPPED_VARIANTS = dict(VARIANTS_CHOSEN)


class ProfileError(InputError):
    """A tuning profile that is missing, damaged, or made for other kernels."""


@dataclass(frozen=True)
class Profile:
    """The result of tuning.

    Args:
        key: the run that it was measured for.
        dataset: name of the stream that it was measured on.
        created: time of creation in UTC, in ISO 8601.
        settings: `RunSettings` by name.
        kernels: configurations as {"blocks", "num_warps", "num_stages"}, by kernel and variant of the arithmetic.
        variants: by operation, for operations with several variants.
        stage_seconds: "median", "p90" and "mean" seconds per iteration of every stage under these settings.
        plan: `Plan.to_json()` for those times.
        search: facts of the search: budget, trials, speeds, noise.
    """

    key: Key
    dataset: str
    created: str
    settings: Mapping[str, Any]
    kernels: Mapping[str, Mapping[str, Mapping[str, Any]]]
    variants: Mapping[str, str]
    stage_seconds: Mapping[str, Mapping[str, float]]
    plan: Mapping[str, Any]
    search: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the profile as one JSON object."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "key"}
        key = {"subject": self.key.subject, "circumstances": self.key.circumstances}
        return {"schema": SCHEMA, **key, **values}

    @staticmethod
    def from_json(document: Any) -> Profile:
        """Return the profile of a `to_json` object, after checking every value that a run will use.

        `configurations` checks that the named kernels are installed.

        Raises:
            ProfileError: the schema is another, or a field is missing or has an invalid value.
        """
        _check("the document", document, "a JSON object", isinstance(document, dict))
        _check(
            "schema", document.get("schema"), f"{SCHEMA}, the schema of this version", document.get("schema") == SCHEMA
        )
        names = [f.name for f in fields(Profile) if f.name != "key"]
        _check_names("the document", document, ["schema", "subject", "circumstances", *names])
        for name in ("dataset", "created"):
            _check(name, document[name], "text", isinstance(document[name], str))
        for name in ("subject", "circumstances", *names[2:]):
            _check(name, document[name], "a JSON object", isinstance(document[name], dict))
        try:
            json.dumps(document, allow_nan=False)
            datetime.fromisoformat(document["created"])
        except (ValueError, RecursionError) as error:
            raise ProfileError(str(error)) from None
        for name, text in document["circumstances"].items():
            _check(f"circumstances.{name}", text, "a line of text", isinstance(text, str) and text.isprintable())
        _check_settings(document["settings"], document["subject"])
        _check_stages(document["stage_seconds"], document["settings"]["schedule"])
        _check_kernels(document["kernels"], document["variants"])
        key = Key(document["subject"], document["circumstances"], document["dataset"])
        return Profile(key, **{name: document[name] for name in names})

    @staticmethod
    def parse(content: bytes) -> Profile:
        """Return the profile in a file's content.

        Raises:
            ProfileError: the content is not JSON, or `from_json` refuses it.
        """
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise ProfileError(f"not JSON: {error}") from None
        return Profile.from_json(document)


def build(
    key: Key, staleness: int, settings: RunSettings, stages: Mapping[str, Mapping[str, float]],
    facts: Mapping[str, Any], kernels: Mapping[str, Any] | None = None, variants: Mapping[str, str] | None = None,
) -> Profile:  # fmt: skip
    """Return the profile of settings that a search has chosen now, with the plan for their stage times.

    Args:
        key: of the run. staleness: its flag. stages: "median", "p90" and "mean" seconds of every stage.
        facts: of the search. kernels, variants: as in `Profile`; None for none.
    """
    times = {name: seconds["median"] for name, seconds in stages.items()}
    plan = make_plan(settings.schedule, times, None if staleness < 0 else staleness, depth=settings.prefetch)
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return Profile(
        key, key.dataset, created, asdict(settings), kernels or {}, variants or {}, stages, plan.to_json(), facts
    )


def load(path: str | Path) -> Profile:
    """Read a profile.

    Raises:
        ProfileError: the file is missing, cannot be read, or is damaged.
    """
    try:
        return Profile.parse(Path(path).read_bytes())
    except OSError as error:
        raise ProfileError(
            f"{path}: cannot be read: {error.strerror}; create one with `mspipe-triton autotune`"
        ) from error
    except ProfileError as error:
        raise ProfileError(f"{path}: damaged ({error}); tune again") from None


def apply(profile: Profile | str | Path) -> None:
    """Use a profile's kernel configurations in this process; for users of the operations alone, since a run does it.

    Kernels that the profile does not name stay unchanged; a profile made on the CPU names none.

    Raises:
        ProfileError: it cannot be read, or was tuned for kernels other than the installed ones; nothing changes.
    """
    if not isinstance(profile, Profile):
        profile = load(profile)
    if profile.key.circumstances.get("kernels") != kernel_sources():
        raise ProfileError(
            f"the profile of {profile.dataset!r}, {profile.created}, was tuned for other kernels; tune again"
        )
    for kernel, variant, config in configurations(profile):
        kernel.chosen[variant] = config
    VARIANTS_CHOSEN.update(profile.variants)


def restore() -> None:
    """Use the shipped configurations of all kernels and variants again."""
    for kernel in KERNELS.values():
        kernel.chosen = {variant: choices[0] for variant, choices in kernel.configs.items()}
    VARIANTS_CHOSEN.update(_SHIPPED_VARIANTS)


def configurations(profile: Profile) -> list[tuple[Kernel, str, Config]]:
    """Return the installed kernels that a profile names, each with a variant of the arithmetic and its configuration.

    Raises:
        ProfileError: a kernel, an operation, a variant or a block is not installed.
    """
    configs = []
    for name, variants in profile.kernels.items():
        if name not in KERNELS:
            raise ProfileError(f"kernel {name!r} is not installed; tune again")
        shipped = KERNELS[name].configs
        for variant, values in variants.items():
            if variant not in shipped:
                raise ProfileError(f"kernel {name} has no variant {variant!r}, only {', '.join(shipped)}; tune again")
            blocks, names = sorted(shipped[variant][0].blocks), sorted(values["blocks"])
            if names != blocks:
                raise ProfileError(f"kernel {name} has the blocks {blocks}, not {names}; tune again")
            configs.append((KERNELS[name], variant, Config(**values)))
    for operation, variant in profile.variants.items():
        if variant not in VARIANTS.get(operation, ()):
            raise ProfileError(f"operation {operation!r} has no variant {variant!r}; tune again")
    return configs


def _check(label: str, value: object, requirement: str, valid: bool) -> None:
    if not valid:
        raise ProfileError(f"{label} must be {requirement}, not {reprlib.repr(value)}")


def _check_names(label: str, values: Any, names: Collection[str]) -> None:
    """Refuse anything but a JSON object with exactly these names."""
    _check(label, values, "a JSON object", isinstance(values, dict))
    wrong = [f"no {name!r}" for name in names if name not in values]
    wrong += [f"an unknown {name!r}" for name in values if name not in names]
    if wrong:
        raise ProfileError(f"{label} has {wrong[0]}")


def _check_integer(label: str, value: object, largest: int) -> None:
    _check(label, value, f"an integer of 1 to {largest}", type(value) is int and 1 <= value <= largest)


def _check_settings(values: Any, subject: Mapping[str, Any]) -> None:
    """Refuse invalid settings, and settings that change what a run with the subject's flags computes."""
    defaults = asdict(RunSettings())
    _check_names("settings", values, defaults)
    for name, default in defaults.items():
        kind = type(default)
        _check(f"settings.{name}", values[name], kind.__name__, type(values[name]) is kind)
    for name, largest in LARGEST.items():
        _check_integer(f"settings.{name}", values[name], largest)
    _check("settings.schedule", values["schedule"], "the name of a schedule", values["schedule"] != "auto")
    try:
        RunSettings(**values).check_fits(subject.get("schedule", ""), subject.get("threads", 0))
    except ConfigError as error:
        raise ProfileError(f"settings: {error}") from None


def _check_stages(stages: Any, schedule: str) -> None:
    _check_names("stage_seconds", stages, stage_names(schedule))
    for stage, statistics in stages.items():
        _check_names(f"stage_seconds.{stage}", statistics, STATISTICS)
        for name, value in statistics.items():
            valid = type(value) in (int, float) and math.isfinite(value) and value > 0
            _check(f"stage_seconds.{stage}.{name}", value, "finite seconds above 0", valid)


def _check_kernels(kernels: Any, variants: Any) -> None:
    for name, choices in kernels.items():
        _check(f"kernels {name!r}", choices, "a JSON object", isinstance(choices, dict))
        for variant, values in choices.items():
            label = f"kernels {name!r} {variant!r}"
            _check_names(label, values, ("blocks", "num_warps", "num_stages"))
            _check(f"{label} blocks", values["blocks"], "a JSON object", isinstance(values["blocks"], dict))
            for block, size in values["blocks"].items():
                _check_integer(f"{label} {block!r}", size, 2**20)
            _check_integer(f"{label} num_stages", values["num_stages"], 16)
            _check_integer(f"{label} num_warps", values["num_warps"], 32)
            power = values["num_warps"] & (values["num_warps"] - 1) == 0
            _check(f"{label} num_warps", values["num_warps"], "a power of two", power)
    for operation, variant in variants.items():
        _check(f"variants {operation!r}", variant, "text", isinstance(variant, str))

"""Search spaces as data: what may be chosen of a run and of every kernel, and how a choice becomes settings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from mspipe_triton.config import WITHOUT_STALENESS, RunSettings, TrainConfig
from mspipe_triton.kernels.launch import Config, Kernel

Value = bool | int | str
Point = dict[str, Value]


@dataclass(frozen=True)
class Space:
    """Named choices; a point has a value for every name that applies.

    Args:
        choices: by name; numbers in ascending order.
        default: the shipped default, a point of the space and the first of its points.
        applies: by name, another one that comes before it and the values of that under which this one means anything.
    """

    choices: Mapping[str, tuple[Value, ...]]
    default: Point
    applies: Mapping[str, tuple[str, tuple[Value, ...]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = list(self.choices)
        for name, (other, _) in self.applies.items():
            if name not in names or other not in names[: names.index(name)]:
                raise ValueError(f"space: {name} applies by {other}, which does not come before it among {names}")
        if not self.contains(self.default):
            raise ValueError(f"space: the default {self.default} is no point of {dict(self.choices)}")

    @cached_property
    def size(self) -> int:
        """How many points there are."""
        return sum(1 for _ in self.points())

    def points(self) -> Iterator[Point]:
        """Every point once, the default first."""
        yield dict(self.default)
        yield from (point for point in self._extended({}, list(self.choices)) if point != self.default)

    def contains(self, point: Mapping[str, Value]) -> bool:
        """Whether the point has a value of this space for every name that applies, and for no other."""
        applying = {name for name in self.choices if self.has(name, point)}
        return applying == set(point) and all(_among(point[name], self.choices[name]) for name in applying)

    def has(self, name: str, point: Mapping[str, Value]) -> bool:
        """Whether a name applies beside what the point has for the names before it."""
        if name not in self.applies:
            return True
        other, values = self.applies[name]
        return other in point and _among(point[other], values)

    def ordered(self, name: str) -> bool:
        """Whether the choices of a name are numbers, so that neighbours resemble each other."""
        return all(type(choice) is int for choice in self.choices[name])

    def digest(self) -> str:
        """A short hash of the content, the same in every process."""
        content = [list(self.choices.items()), sorted(self.default.items()), sorted(self.applies.items())]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:12]

    def _extended(self, point: Point, names: list[str]) -> Iterator[Point]:
        if not names:
            yield point
        elif self.has(names[0], point):
            for choice in self.choices[names[0]]:
                yield from self._extended({**point, names[0]: choice}, names[1:])
        else:
            yield from self._extended(point, names[1:])


def _among(value: Value, choices: tuple[Value, ...]) -> bool:
    """Whether a value is one of the choices, True being no 1."""
    return any(type(value) is type(choice) and value == choice for choice in choices)


def run_space(default: RunSettings, train: TrainConfig, device: str, cores: int, layers: int = 1) -> Space:
    """What may be chosen of a run: fields of `RunSettings` with two choices or more that compute the same function.

    Of a resident run nothing is left but how its iteration is launched, and on the CPU threads and fusion.

    What the run's own flags have fixed is left out: the schedule, and with `threads` those of the stages that compute,
    which are then the most that the others get.

    Args:
        default: the shipped settings of this run.
        device: "cpu" or "cuda".
        cores: logical CPUs that the run may take.
        layers: of the model's embedding; without any, it reads no neighbours.
    """
    free = train.schedule == "auto"
    choices: dict[str, tuple[Value, ...]] = {
        "threads": (default.threads,) if train.threads else _thread_counts(cores, default.threads),
        "host_threads": _thread_counts(train.threads or cores, default.host_threads),
        "schedule": WITHOUT_STALENESS if free else (default.schedule,),
        "prefetch": tuple(sorted({1, 2, 3, 4, 6, default.prefetch})) if free or default.schedule != "serial" else (),
        "deduplicate": ("all", "roots") if layers and train.mitigation == "none" else (),
        "fused": (True, False) if default.fused else (),
        "features": ("host", "device") if device == "cuda" else (),
        "gather": ("copy", "kernel") if device == "cuda" else (),
    }
    if default.resident:
        graph: dict[str, tuple[Value, ...]] = {"captured": (True, False), "branch": (True, False)}
        choices = graph if device == "cuda" else {name: choices[name] for name in ("threads", "fused")}
        free = False
    choices = {name: values for name, values in choices.items() if len(values) > 1}
    applies = {"prefetch": ("schedule", ("prefetch", "exact"))} if free else {}
    taken: Point = {name: getattr(default, name) for name in choices}
    if free and default.schedule == "serial":
        del taken["prefetch"]
    return Space(choices, taken, applies)


def run_settings(default: RunSettings, point: Mapping[str, Value]) -> RunSettings:
    """The settings of a point of `run_space`; what it leaves out is the default's."""
    fields: dict[str, object] = dict(point)
    return replace(default, **fields)  # type: ignore[arg-type]  # the space's choices have the fields' types


def _thread_counts(most: int, default: int) -> tuple[int, ...]:
    return tuple(sorted({1 << i for i in range(most.bit_length()) if 1 << i <= most} | {most, default}))


# Of a kernel without products, which has nothing to stage: Triton pipelines the loads of loops with products alone.
_PLAIN = {"num_warps": (1, 2, 4, 8), "num_stages": (2,)}
_PRODUCTS = {"num_warps": (2, 4, 8), "num_stages": (1, 2, 3, 4)}
_SCAN = {"BLOCK": (4, 8, 16, 32, 64), "CHUNK": (32, 64, 128, 256, 512)}
_COLUMNS = {"COLUMNS": (32, 64, 128, 256)}
# The least number held is next to nothing in registers.
_SLOTS = {"BLOCK": (32, 64, 128, 256), "HELD": (1280, 6144, 10240, 20480), **_PLAIN}
_UPDATER = {"BLOCK_U": (16, 32, 64, 128), "BLOCK_D": (16, 32, 64, 128), "BLOCK_K": (16, 32, 64), **_PRODUCTS}
_BACKWARD = {"BLOCK_N": (16, 32, 64, 128), "BLOCK_K": (16, 32, 64, 128), "BLOCK_U": (16, 32, 64), **_PRODUCTS}
# Of the attention layer's kernels those that go into a head and those that come out of all heads.
_HEAD = {"BLOCK_R": (16, 32, 64), "BLOCK_K": (16, 32, 64), **_PRODUCTS}
_HEADS = {"BLOCK_W": (16, 32, 64), **_HEAD}
_PARTS = {"PART": (128, 256, 512, 1024, 2048)}
_ROWS = {"BLOCK_U": (1, 2, 4, 8, 16, 32), **_PLAIN}
_FLAT = {"BLOCK": (32, 64, 128, 256, 512, 1024), **_PLAIN}
_SAMPLE = {"BLOCK": (8, 16, 32, 64, 128), **_PLAIN}
_SPAN = {**_PLAIN, "num_warps": (1, 2, 4, 8, 16)}

# Of every kernel the choices of each block, of warps and of stages. `tl.dot` takes blocks of 16 and up.
KERNEL_SPACES: dict[str, dict[str, tuple[int, ...]]] = {
    "link_kernel": {**_SCAN, **_PLAIN},
    "mean_kernel": {"BLOCK": (1, 2, 4, 8, 16), **_COLUMNS, **_PLAIN},
    "last_kernel": {**_SCAN, **_PLAIN, **_COLUMNS},
    "patch_kernel": {**_SCAN, **_PLAIN, **_COLUMNS},
    "encode_time_backward_kernel": {"BLOCK_M": (4, 8, 16, 32, 64), "PART": (64, 128, 256, 512, 1024), **_PLAIN},
    "gather_kernel": {"BLOCK": (1, 2, 4, 8, 16, 32, 64), "COLUMNS": (32, 64, 128, 256, 512), **_PLAIN},
    "attention_kernel": _SLOTS,
    "attention_backward_kernel": _SLOTS,
    "attention_query_kernel": _HEAD,
    "attention_query_backward_kernel": _HEADS,
    "attention_output_kernel": _HEADS,
    "attention_output_backward_kernel": _HEAD,
    "attention_weights_kernel": {
        "BLOCK_N": (16, 32, 64), "BLOCK_K": (16, 32, 64, 128), "BLOCK_R": (16, 32, 64), **_PARTS, **_PRODUCTS,
    },
    "attention_sums_kernel": _FLAT,
    "attention_times_kernel": {"BLOCK_T": (8, 16, 32), "BLOCK_R": (32, 64, 128, 256), **_PLAIN},
    "link_scores_kernel": _UPDATER,
    "link_loss_kernel": _FLAT,
    "link_backward_kernel": {**_BACKWARD, "PART": (64, 128, 256, 512, 1024)},
    "link_sum_kernel": _FLAT,
    "fused_gru_kernel": {**_UPDATER, "BLOCK_D": (16, 32, 64)},  # larger ones take half a minute to be refused
    "fused_rnn_kernel": _UPDATER,
    "pack_kernel": {"BLOCK_ROWS": (8, 16, 32, 64), "BLOCK_DEPTH": (16, 32, 64, 128), **_PLAIN},
    "message_kernel": _ROWS,
    "gates_kernel": _ROWS,
    "gates_backward_kernel": _ROWS,
    "tanh_backward_kernel": _ROWS,
    "weights_backward_kernel": {**_BACKWARD, **_PARTS},
    "rows_backward_kernel": {**_BACKWARD, "BLOCK_U": (16, 32, 64, 128), "BLOCK_N": (16, 32, 64)},
    "sum_parts_kernel": _FLAT,
    # Not fewer nodes than threads: several would exchange entries for one node.
    "unique_insert_kernel": {"BLOCK": (128, 256, 512, 1024), **_PLAIN, "num_warps": (1, 2, 4)},
    "unique_count_kernel": _SPAN,
    "unique_number_kernel": _SPAN,
    "unique_inverse_kernel": _FLAT,
    "recent_kernel": _SAMPLE,
    "uniform_kernel": _SAMPLE,
    "batch_kernel": _FLAT,
    "mail_kernel": _FLAT,
    "ring_kernel": {"BLOCK": (4, 8, 16, 32), **_COLUMNS, **_PLAIN},
    "mean_mails_kernel": {"CHUNK": (4, 8, 16, 32), **_COLUMNS, **_PLAIN},
    "dropout_kernel": _FLAT,
}  # fmt: skip

# Operations that several kernels compute, in one way or another.
OPERATION_VARIANTS: dict[str, tuple[str, ...]] = {"memory_gru": ("fused", "split")}


def kernel_space(kernel: Kernel, variant: str) -> Space:
    """A kernel's space, with the configuration that ships for a variant of the arithmetic as its default."""
    shipped = kernel.configs.get(variant, kernel.configs["float32"])[0]
    return Space(KERNEL_SPACES[kernel.name], config_point(shipped))


def kernel_config(kernel: Kernel, variant: str, point: Mapping[str, Value]) -> Config:
    """The configuration of a point of `kernel_space`.

    Raises:
        ValueError: the point is none of that space.
    """
    if not kernel_space(kernel, variant).contains(point):
        raise ValueError(f"{kernel.name}: {dict(point)} is no point of its space; take one of kernel_space")
    values = {name: int(value) for name, value in point.items()}
    warps, stages = values.pop("num_warps"), values.pop("num_stages")
    return Config(values, num_warps=warps, num_stages=stages)


def config_point(config: Config) -> Point:
    """A configuration as a point: its blocks, warps and stages."""
    return {**config.blocks, "num_warps": config.num_warps, "num_stages": config.num_stages}

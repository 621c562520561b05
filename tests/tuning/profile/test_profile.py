"""Tuning profiles: the values that are refused, and applying one to the kernels alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mspipe_triton.errors import InputError
from mspipe_triton.kernels.runtime.launch import KERNELS, VARIANTS_CHOSEN, Config
from mspipe_triton.tuning.profile.profile import Profile, ProfileError, apply, restore
from mspipe_triton.tuning.profile.store import ProfileStore
from tests.tuning.profile.profile_case import ATTENTION, configuration, files, save


@pytest.fixture
def shipped() -> Iterator[None]:
    yield
    restore()


def _choices() -> list[Any]:
    return [{name: dict(kernel.chosen) for name, kernel in KERNELS.items()}, dict(VARIANTS_CHOSEN)]


WRONG = [
    ("settings", None, "settings must be a JSON object, not None"),
    ("settings.threads", 0, "settings.threads must be an integer of 1 to 1024, not 0"),
    ("settings.threads", 1e9, "settings.threads must be int, not"),
    ("settings.threads", True, "settings.threads must be int, not True"),
    ("settings.prefetch", 10**9, "settings.prefetch must be an integer of 1 to 64"),
    ("settings.fused", 1, "settings.fused must be bool, not 1"),
    ("settings.gather", "magic", "gather 'magic' is not one of copy, kernel"),
    ("settings.schedule", "auto", "settings.schedule must be the name of a schedule, not 'auto'"),
    ("settings.schedule", "mspipe", "schedule mspipe differs from the run's, auto"),
    ("settings.turbo", 1, "settings has an unknown 'turbo'"),
    ("subject.threads", 1, "threads 2 differs from the run's, 1"),
    ("subject.schedule", "serial", "schedule exact differs from the run's, serial"),
    ("circumstances.torch", 2, "circumstances.torch must be a line of text, not 2"),
    ("circumstances.torch", "2\n3", "circumstances.torch must be a line of text"),
    ("created", "yesterday", "Invalid isoformat string"),
    ("dataset", 5, "dataset must be text, not 5"),
    ("plan", [], "plan must be a JSON object, not []"),
    ("extra", 5, "the document has an unknown 'extra'"),
    ("stage_seconds.train.median", 0, "stage_seconds.train.median must be finite seconds above 0, not 0"),
    ("stage_seconds.train.median", "1", "stage_seconds.train.median must be finite seconds above 0, not '1'"),
    ("stage_seconds.train.p99", 1.0, "stage_seconds.train has an unknown 'p99'"),
    ("stage_seconds.lunch", {}, "stage_seconds has an unknown 'lunch'"),
    ("stage_seconds.train", 3, "stage_seconds.train must be a JSON object, not 3"),
    ("variants.memory_gru", 3, "variants 'memory_gru' must be text, not 3"),
    ("variants.memory_gru", "magic", "operation 'memory_gru' has no variant 'magic'"),
    ("variants.memory_lstm", "fused", "operation 'memory_lstm' has no variant 'fused'"),
    ("kernels.attention_kernel", 3, "kernels 'attention_kernel' must be a JSON object, not 3"),
    ("kernels.attention_kernel.float32.num_warps", 3, "num_warps must be a power of two, not 3"),
    ("kernels.attention_kernel.float32.num_warps", 64, "num_warps must be an integer of 1 to 32, not 64"),
    ("kernels.attention_kernel.float32.num_stages", 0, "num_stages must be an integer of 1 to 16, not 0"),
    ("kernels.attention_kernel.float32.blocks", 3, "blocks must be a JSON object, not 3"),
    ("kernels.attention_kernel.float32.blocks.BLOCK", -4, "'BLOCK' must be an integer of 1 to 1048576, not -4"),
    ("kernels.attention_kernel.float32.blocks.BLOCK", 2.0, "'BLOCK' must be an integer of 1 to 1048576, not 2.0"),
    ("kernels.attention_kernel.float32.blocks.OTHER", 4, "kernel attention_kernel has the blocks ['BLOCK', 'HELD']"),
    ("kernels.attention_kernel.bf16", ATTENTION, "kernel attention_kernel has no variant 'bf16'"),
    ("kernels.magic_kernel", {}, "kernel 'magic_kernel' is not installed"),
]


@pytest.mark.parametrize(
    ("where", "value", "message"), WRONG, ids=[f"{where}={value!r}"[:60] for where, value, _ in WRONG]
)
def test_a_profile_with_a_wrong_value_stops_no_run(
    where: str, value: object, message: str, profile: Profile, store: ProfileStore
) -> None:
    document = json.loads(json.dumps(profile.to_json()))
    *parents, name = where.split(".")
    inner = document
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    path = save(store, profile)
    path.write_text(json.dumps(document))
    assert store.find(profile.key) is None
    (notice,) = store.notices
    assert message in notice
    assert notice.isprintable()
    assert files(store) == [f"{path.name}.damaged"]


@pytest.mark.parametrize("name", ["schema", "subject", "settings", "created", "stage_seconds", "search"])
def test_a_profile_with_a_missing_field_is_damaged(name: str, profile: Profile, store: ProfileStore) -> None:
    document = profile.to_json()
    del document[name]
    save(store, profile).write_text(json.dumps(document))
    assert store.find(profile.key) is None
    assert name in store.notices[0]


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize("as_path", [False, True])
def test_apply_and_restore(as_path: bool, profile: Profile, store: ProfileStore) -> None:
    before = _choices()
    apply(save(store, profile) if as_path else profile)
    assert KERNELS["attention_kernel"].config() == Config({"BLOCK": 32, "HELD": 4096}, 2, 1)
    assert KERNELS["attention_kernel"].config("float64") == before[0]["attention_kernel"]["float64"]
    assert KERNELS["unique_count_kernel"].config() == Config({}, 1, 2)
    assert KERNELS["recent_kernel"].chosen == before[0]["recent_kernel"]
    assert VARIANTS_CHOSEN["memory_gru"] == "split"
    restore()
    assert _choices() == before


@pytest.mark.usefixtures("shipped")
def test_a_profile_of_the_cpu_changes_no_kernel(profile: Profile) -> None:
    before = _choices()
    apply(replace(profile, kernels={}, variants={}))
    assert _choices() == before


@pytest.mark.usefixtures("shipped")
@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"kernels": {"attention_kernel": {"float32": ATTENTION}, "magic_kernel": {}}},
            "'magic_kernel' is not installed",
        ),
        ({"kernels": {"attention_kernel": {"float32": configuration({"BLOCK": 32}, 4, 2)}}}, r"not \['BLOCK'\]"),
        ({"variants": {"memory_gru": "magic"}}, "'memory_gru' has no variant 'magic'"),
    ],
)
def test_apply_is_all_or_nothing(fields: dict[str, Any], message: str, profile: Profile, store: ProfileStore) -> None:
    before, wrong = _choices(), replace(profile, **fields)
    for target in (wrong, save(store, wrong)):
        with pytest.raises(ProfileError, match=message):
            apply(target)
        assert _choices() == before


@pytest.mark.usefixtures("shipped")
def test_apply_refuses_a_profile_of_other_kernels(profile: Profile, store: ProfileStore) -> None:
    before = _choices()
    other = replace(profile, key=replace(profile.key, circumstances={"kernels": "0123456789abcdef"}))
    for target in (other, save(store, other)):
        with pytest.raises(ProfileError, match="was tuned for other kernels; tune again"):
            apply(target)
    assert _choices() == before


def test_apply_names_the_file_that_it_cannot_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json: cannot be read: No such file"):
        apply(tmp_path / "none.json")
    (tmp_path / "half.json").write_text('{"schema": 1')
    with pytest.raises(ProfileError, match=r"half\.json: damaged \(not JSON: .*\); tune again$"):
        apply(str(tmp_path / "half.json"))


def test_importing_profiles_loads_neither_optuna_nor_pyarrow() -> None:
    code = "import sys, mspipe_triton.tuning.profile.store; assert not {'optuna', 'pyarrow'} & sys.modules.keys()"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0

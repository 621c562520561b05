"""The files of tuning profiles: they are found, renamed when stale or damaged, and never written in part."""

from __future__ import annotations

import errno
import json
import math
import multiprocessing
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mspipe_triton.data.events import EventStream
from mspipe_triton.execution import RunSettings
from mspipe_triton.tuning.profile import key as key_module
from mspipe_triton.tuning.profile.key import Key
from mspipe_triton.tuning.profile.profile import Profile, load
from mspipe_triton.tuning.profile.store import ProfileStore
from tests.tuning.profile.profile_case import ATTENTION, CONFIG, files, save


def test_a_saved_profile_is_loaded_unchanged(profile: Profile, store: ProfileStore) -> None:
    assert store.find(profile.key) is None
    path = save(store, profile)
    assert path.name == f"tgn-synthetic-{profile.key.digest}.json" == store.path(profile.key).name
    assert store.find(profile.key) == profile == load(path)
    assert Profile.from_json(json.loads(json.dumps(profile.to_json()))) == profile
    assert RunSettings(**profile.settings).prefetch == 4
    assert not store.notices
    assert files(store) == [path.name]
    assert path.read_text().startswith('{\n "schema": 1,\n')


def test_a_profile_is_found_with_another_name_of_the_data(profile: Profile, store: ProfileStore) -> None:
    path, renamed = save(store, profile), replace(profile.key, dataset="../odd name\n" + "x" * 300)
    assert store.find(renamed) == profile
    assert store.save(replace(profile, key=renamed)) == path
    path.unlink()
    path = save(store, replace(profile, key=renamed))
    assert path.parent == store.folder
    assert path.name.startswith("tgn-.._odd_name_xxx")
    assert store.studies(renamed) == path.with_suffix(".db")


def test_the_store_is_in_the_users_cache(profile: Profile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = ProfileStore()
    assert store.folder == tmp_path / "cache" / "mspipe-triton" / "profiles"
    study = store.studies(profile.key)
    assert study == store.path(profile.key).with_suffix(".db")
    assert store.folder.is_dir()
    assert save(store, profile).parent == store.folder


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-40],
        lambda content: b"",
        lambda content: b"\xff\xfe\x00garbage",
        lambda content: b"[" * 100_000,
        lambda content: b"[]",
        lambda content: b'"text"',
        lambda content: content.replace(b'"gain": 1.2', b'"gain": NaN'),
        lambda content: content.replace(b'"gain": 1.2', b'"gain": 1e999'),
        lambda content: content.replace(b'"schema": 1', b'"schema": 2'),
        lambda content: content.replace(b'"batch_size": 100', b'"batch_size": 101'),
    ],
    ids=["truncated", "empty", "binary", "deep", "list", "text", "nan", "infinite", "schema", "subject"],
)
def test_a_damaged_file_is_renamed_with_a_notice(
    damage: Callable[[bytes], bytes], profile: Profile, store: ProfileStore
) -> None:
    path = save(store, profile)
    content = path.read_bytes()
    damaged = damage(content)
    assert damaged != content
    for _ in range(2):  # the second replaces the file that the first was renamed to
        path.write_bytes(damaged)
        assert store.find(profile.key) is None
        assert files(store) == [f"{path.name}.damaged"]
    assert (store.folder / f"{path.name}.damaged").read_bytes() == damaged
    (notice,) = store.notices
    assert notice.startswith(f"{path}: damaged (")
    assert notice.isprintable()


def test_a_stale_profile_is_renamed_and_its_changes_are_reported(profile: Profile, store: ProfileStore) -> None:
    old = replace(profile.key, circumstances={**profile.key.circumstances, "torch": "2.12.0", "triton": "3.0"})
    unknown = {"magic_kernel": {"float32": ATTENTION}}  # of other kernels, which does not count as damage
    for _ in range(2):
        path = save(store, replace(profile, key=old, kernels=unknown))
        assert store.find(profile.key) is None
        assert files(store) == [f"{path.name}.stale"]
    assert f"stale (torch 2.12.0 then, {torch.__version__} now; triton 3.0 then, " in store.notices[0]
    assert store.find(old) is None


def test_an_edited_kernel_makes_a_profile_stale(
    profile: Profile, store: ProfileStore, small_stream: EventStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(store, profile)
    monkeypatch.setattr(key_module, "kernel_sources", lambda: "0123456789abcdef")
    assert store.find(Key.of(CONFIG, small_stream)) is None
    assert "kernels" in store.notices[0]
    assert "0123456789abcdef now" in store.notices[0]


@pytest.mark.parametrize(("error", "notices"), [(errno.EACCES, 1), (errno.ENOENT, 0)])
def test_a_file_that_cannot_be_renamed_gives_no_profile(
    error: int, notices: int, profile: Profile, store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(store, profile)
    path.write_text("{}")
    monkeypatch.setattr(os, "replace", _raiser(error))
    assert store.find(profile.key) is None
    assert len(store.notices) == notices
    assert all("cannot be renamed: Permission denied" in notice for notice in store.notices)


def test_a_file_that_cannot_be_read_gives_no_profile(profile: Profile, store: ProfileStore) -> None:
    store.path(profile.key).mkdir(parents=True)
    assert store.find(profile.key) is None
    assert store.save(profile) is None
    assert ["cannot be read" in notice for notice in store.notices] == [True, False]
    assert files(store) == [store.path(profile.key).name]


def test_an_unwritable_cache_gives_one_notice_per_message(profile: Profile, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = ProfileStore(tmp_path / "file" / "profiles")
    assert store.find(profile.key) is None
    assert not store.notices
    assert store.save(profile) is None
    assert store.studies(profile.key) is None
    assert store.studies(profile.key) is None
    assert ["Not a directory" in notice for notice in store.notices] == [True, True]
    assert all(notice.isprintable() for notice in store.notices)


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_full_disk_leaves_the_earlier_profile(
    failing: str, profile: Profile, store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = save(store, profile)
    with monkeypatch.context() as patched:
        patched.setattr(os, failing, _raiser(errno.ENOSPC))
        assert store.save(replace(profile, search={})) is None
    assert "cannot be written, so the profile is not saved: No space left on device" in store.notices[0]
    assert store.find(profile.key) == profile
    assert files(store) == [path.name]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_not_finite_is_never_written(value: float, profile: Profile, store: ProfileStore) -> None:
    assert store.save(replace(profile, search={"noise": value})) is None
    assert "not saved: Out of range float values" in store.notices[0]
    assert not store.path(profile.key).exists()


def test_an_interrupted_write_leaves_nothing(
    profile: Profile, store: ProfileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store.save(profile)
    assert not files(store)


def test_concurrent_writers_leave_whole_profiles(profile: Profile, store: ProfileStore) -> None:
    def write(writer: int) -> None:
        writer_store = ProfileStore(store.folder)
        for i in range(25):
            assert writer_store.save(_long(profile, writer, 1000 * (i % 5))), writer_store.notices

    def work(process: int) -> None:
        failures = []
        threading.excepthook = lambda failure: failures.append(failure.exc_value)
        threads = [threading.Thread(target=write, args=(2 * process + i,)) for i in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        os._exit(1 if failures else 0)

    path = save(store, _long(profile, 9, 9))
    processes = [multiprocessing.get_context("fork").Process(target=work, args=(i,)) for i in range(2)]
    for process in processes:
        process.start()
    reads = 0
    while any(process.is_alive() for process in processes):
        stored = store.find(profile.key)
        assert stored is not None, store.notices
        assert set(stored.search["fill"]) <= {stored.search["writer"]}
        reads += 1
    assert [process.exitcode for process in processes] == [0, 0]
    assert reads > 3
    assert not store.notices
    assert files(store) == [path.name]


def _long(profile: Profile, writer: int, length: int) -> Profile:
    return replace(profile, search={"writer": writer, "fill": [writer] * length})


def _raiser(number: int) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail

"""Tests of the bundle: packing a cache and unpacking it elsewhere, wheels, and keys that say if its kernels fit."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bench.gpu.bundle import __main__ as bundle
from bench.gpu.bundle import kit

ROOT = Path(__file__).resolve().parents[3]


def cache(folder: Path) -> None:
    """Make the files that Triton writes for one kernel."""
    entry = folder / "AAAA"
    entry.mkdir(parents=True)
    for name in ("a.cubin", "a.ptx", "a.ttir", "a.json", "launcher.so"):
        (entry / name).write_text(name, encoding="utf-8")
    group = {"child_paths": {name: str(entry / name) for name in ("a.cubin", "a.ptx", "a.json")}}
    (entry / "__grp__a.json").write_text(json.dumps(group), encoding="utf-8")


def test_a_cache_is_pruned_and_works_in_another_folder(tmp_path: Path) -> None:
    cache(tmp_path / "here")
    assert kit.pack(tmp_path / "here", tmp_path / "cache.tar.xz") == 1
    kit.unpack_cache(tmp_path / "cache.tar.xz", tmp_path / "part", tmp_path / "there")
    (tmp_path / "part").rename(tmp_path / "there")
    entry = tmp_path / "there" / "AAAA"
    assert sorted(path.name for path in entry.iterdir()) == ["__grp__a.json", "a.cubin", "a.json", "launcher.so"]
    group = json.loads((entry / "__grp__a.json").read_text(encoding="utf-8"))["child_paths"]
    assert group == {name: str(entry / name) for name in ("a.cubin", "a.json")}


def wheel(folder: Path, name: str, module: str) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{module}/__init__.py", "there = True\n")
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Name: {name}\n")


def test_missing_packages_are_installed(tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", "not_here", "not_here_at_all")
    wheel(tmp_path / "wheels", "torch", "torch")
    assert kit.install(tmp_path / "wheels", tmp_path / "site") == ["not_here"]
    assert (tmp_path / "site" / "not_here_at_all" / "__init__.py").exists()
    assert (tmp_path / "site" / "not_here-1.0.dist-info" / "METADATA").exists()
    assert not (tmp_path / "site" / "torch").exists()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a bundle whose keys fit this machine."""
    folder = tmp_path / "bundle"
    cache(tmp_path / "built")
    for name in (kit.WHEELS, kit.REFERENCES):
        (folder / name).mkdir(parents=True)
    (folder / "wiki.csv").touch()
    (folder / "uci.csv").touch()
    kit.pack(tmp_path / "built", folder / kit.CACHE)
    monkeypatch.setattr(kit, "keys", lambda: {"version": "3.6.0", "triton": "one", "kernel gru": "two"})
    facts = {"keys": kit.keys(), "kernels": 1, "commit": "abc", "seed": 0}
    (folder / kit.MANIFEST).write_text(json.dumps(facts), encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "argv", ["kit", str(folder), str(tmp_path / "kit")])
    return folder


def test_a_bundle_fits_a_machine_like_its_own(tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kit.main() == 0
    assert "HIT: Triton 3.6.0, 1 kernels of abc" in capsys.readouterr().out
    assert (tmp_path / "kit" / "cache" / "AAAA" / "a.cubin").exists()
    assert (tmp_path / "kit" / "wiki.csv").exists()
    assert kit.manifest(tmp_path / "kit")["commit"] == "abc"
    assert kit.main() == 0  # a second time
    assert not (tmp_path / "kit.part").exists()


def test_a_folder_with_other_contents_is_refused(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kit.main() == 0
    facts = {**kit.manifest(folder), "commit": "another"}
    (folder / kit.MANIFEST).write_text(json.dumps(facts), encoding="utf-8")
    for message in ("holds another bundle; name another folder", "holds no bundle; name another folder"):
        with pytest.raises(SystemExit, match="2"):
            kit.main()
        assert message in capsys.readouterr().err
        (tmp_path / "kit" / kit.MANIFEST).unlink(missing_ok=True)
    (folder / kit.CACHE).unlink()
    with pytest.raises(SystemExit, match="2"):
        kit.main()
    assert "has no cache.tar.xz; make a bundle with" in capsys.readouterr().err


def test_a_half_unpacked_bundle_is_unpacked_again(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "kit.part" / "references").mkdir(parents=True)
    assert kit.main() == 0
    assert not (tmp_path / "kit.part").exists()


def test_a_bundle_does_not_fit_another_compute_capability(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kit, "capability", lambda: (8, 0))
    assert kit.main() == 4
    assert "for compute capability (9, 0), and this GPU has (8, 0)" in capsys.readouterr().out


@pytest.mark.parametrize("changed", [{"kernel gru": "three"}, {"triton": "other"}, {"kernel new": "four"}])
def test_a_bundle_does_not_fit_if_a_key_differs(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], changed: dict[str, str]
) -> None:
    here = {**kit.keys(), **changed}
    monkeypatch.setattr(kit, "keys", lambda: here)
    assert kit.main() == 3
    assert f"keys differ: {next(iter(changed))}" in capsys.readouterr().out


def test_a_folder_without_a_bundle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["kit", str(tmp_path), str(tmp_path / "kit")])
    with pytest.raises(SystemExit, match="2"):
        kit.main()
    assert "has no manifest.json, no cache.tar.xz" in capsys.readouterr().err
    assert not (tmp_path / "kit").exists()


def test_the_version_of_a_python() -> None:
    assert bundle.version(sys.executable) == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert bundle.version("no-such-python") is None


def test_a_bundle_needs_its_streams_and_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "something").touch()
    monkeypatch.setattr(bundle, "version", lambda python: {"python3.12": bundle.PYTHON}.get(python))
    for arguments, message in (
        ([str(full)], "is a file or not empty; name another folder"),
        ([str(full / "something")], "is a file or not empty; name another folder"),
        (
            [str(tmp_path / "new"), "--python", "python3.11"],
            "python3.11 is not Python 3.12; name a Python 3.12 with --python",
        ),
        ([str(tmp_path / "new"), "--data", str(full)], "has no wiki.csv and no uci.csv"),
    ):
        monkeypatch.setattr(sys, "argv", ["bundle", *arguments])
        with pytest.raises(SystemExit, match="2"):
            bundle.main()
        assert message in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_making_a_bundle_needs_nothing_but_python() -> None:
    blocked = "import sys; sys.modules |= dict.fromkeys(('torch', 'numpy', 'triton', 'rich'))"
    code = f"{blocked}; import bench.gpu.bundle.__main__, bench.gpu.bundle.kit"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)

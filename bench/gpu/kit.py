"""The bundle's contents: how it is checked and unpacked on the machine with the GPU, and how it was pruned before."""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

MANIFEST, CACHE, WHEELS, REFERENCES = "manifest.json", "cache.tar.xz", "wheels", "references"
KEPT = (".cubin", ".json", ".so")  # what a launch reads of Triton's cache
GROUP = "__grp__"


def manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a bundle or of what was unpacked."""
    found: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return found


def keys() -> dict[str, str]:
    """The parts of the keys under which Triton looks its cache up: its own files, ptxas, environment, our kernels."""
    import triton
    from triton._C.libtriton import get_cache_invalidating_env_vars
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.cache import triton_key

    import bench.cases  # imports every kernel
    from mspipe_triton.kernels.launch import KERNELS

    backend = make_backend(GPUTarget("cuda", 90, 32)).hash()
    parts = {
        "triton": triton_key(),
        "ptxas": backend,
        "environment": str(sorted(get_cache_invalidating_env_vars().items())),
    }
    parts |= {f"kernel {name}": kernel.function.cache_key for name, kernel in KERNELS.items()}
    assert bench.cases.OPERATIONS
    return {"version": triton.__version__, **{name: _digest(text) for name, text in parts.items()}}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def packed(cache: Path, archive: Path) -> int:
    """Pack what a launch reads of a Triton cache, with paths relative to it; returns the number of kernels."""
    kernels = 0
    with tarfile.open(archive, "w:xz") as tar:
        for path in sorted(cache.rglob("*")):
            if path.is_file() and path.suffix in KEPT and not path.parent.name.startswith("tmp."):
                kernels += path.suffix == ".cubin"
                tar.add(path, str(path.relative_to(cache)))
    return kernels


def unpacked(archive: Path, cache: Path) -> None:
    """Unpack a Triton cache; groups, which name files by absolute paths, then name those of this folder."""
    cache.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(cache, filter="data")
    for path in cache.glob(f"*/{GROUP}*.json"):
        names = json.loads(path.read_text(encoding="utf-8"))["child_paths"]
        there = {name: str(path.parent / name) for name in names if (path.parent / name).exists()}
        path.write_text(json.dumps({"child_paths": there}), encoding="utf-8")


def install(wheels: Path, site: Path) -> list[str]:
    """Unzip the wheels whose packages are not installed here; returns their names."""
    installed = []
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            tops = {name.split("/")[0] for name in archive.namelist() if ".dist-info" not in name}
            modules = {top.split(".")[0] for top in tops if not top.endswith(".data")}
            if any(importlib.util.find_spec(module) is None for module in modules):
                archive.extractall(site)
                installed.append(wheel.name.split("-")[0])
    return installed


def main() -> int:
    """Unpack a bundle and say whether its kernels serve here: 0 where they do, 3 where they must be compiled anew."""
    parser = argparse.ArgumentParser(prog="bench.gpu.kit", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path, help="folder to unpack to; what it holds already is left")
    given = parser.parse_args()
    if not (given.bundle / MANIFEST).exists():
        parser.error(f"{given.bundle} has no {MANIFEST}; make one with `python -m bench.gpu.bundle FOLDER`")
    made, folder = manifest(given.bundle), given.folder
    if not (folder / MANIFEST).exists():
        folder.mkdir(parents=True, exist_ok=True)
        installed = install(given.bundle / WHEELS, folder / "site")
        print(f"installed {', '.join(installed) or 'nothing'}")
        sys.path.append(str(folder / "site"))
        unpacked(given.bundle / CACHE, folder / "cache")
        for name in (REFERENCES, "wiki.csv", "uci.csv"):
            os.symlink((given.bundle / name).resolve(), folder / name)
        (folder / MANIFEST).write_text(json.dumps(made), encoding="utf-8")
    else:
        sys.path.append(str(folder / "site"))
    here = keys()
    other = sorted(name for name in {*here, *made["keys"]} if here.get(name) != made["keys"].get(name))
    if other:
        print(f"MISS: {len(other)} of {len(here)} keys differ: {', '.join(other[:6])}")
        return 3
    print(f"HIT: Triton {here['version']}, {made['kernels']} kernels of {made['commit'][:12]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

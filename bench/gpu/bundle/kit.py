"""The bundle's contents: how it is checked and unpacked on the machine with the GPU, and how it was pruned before."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import importlib.util
import json
import os
import shutil
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

MANIFEST, CACHE, WHEELS, REFERENCES = "manifest.json", "cache.tar.xz", "wheels", "references"
KEPT = (".cubin", ".json", ".so")  # what a launch reads of Triton's cache
GROUP = "__grp__"
CAPABILITY = (9, 0)  # that the stub stands for
SHOWN = 6


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

    from mspipe_triton.kernels.runtime.launch import KERNELS

    importlib.import_module("bench.cases.registry")  # and with it every kernel
    backend = make_backend(GPUTarget("cuda", 90, 32)).hash()
    parts = {
        "triton": triton_key(),
        "ptxas": backend,
        "environment": str(sorted(get_cache_invalidating_env_vars().items())),
    }
    parts |= {f"kernel {name}": kernel.function.cache_key for name, kernel in KERNELS.items()}
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


def unpacked(archive: Path, cache: Path, final: Path) -> None:
    """Unpack a Triton cache that will lie in `final`: groups, which name files by absolute paths, name those there."""
    cache.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(cache, filter="data")
    for path in cache.glob(f"*/{GROUP}*.json"):
        names = json.loads(path.read_text(encoding="utf-8"))["child_paths"]
        place = final / path.parent.name
        there = {name: str(place / name) for name in names if (path.parent / name).exists()}
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


def unpack(bundle: Path, folder: Path) -> None:
    """Unpack a bundle; the folder is there whole or not at all."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    print(f"installed {', '.join(install(bundle / WHEELS, part / 'site')) or 'no package'}")
    unpacked(bundle / CACHE, part / "cache", folder / "cache")
    for name in (REFERENCES, "wiki.csv", "uci.csv"):
        os.symlink((bundle / name).resolve(), part / name)
    shutil.copyfile(bundle / MANIFEST, part / MANIFEST)
    os.replace(part, folder)


def fault(bundle: Path, folder: Path) -> str | None:
    """The reason that a bundle cannot be unpacked to a folder, or None."""
    missing = [
        name for name in (MANIFEST, CACHE, WHEELS, REFERENCES, "wiki.csv", "uci.csv") if not (bundle / name).exists()
    ]
    if missing:
        return f"{bundle} has no {', no '.join(missing)}; make a bundle with `python3 -m bench.gpu.bundle FOLDER`"
    if folder.exists() and not (folder / MANIFEST).exists():
        return f"{folder} is there and holds no bundle; name another folder, or remove it"
    if folder.exists() and manifest(folder) != manifest(bundle):
        return f"{folder} holds another bundle; name another folder, or remove it"
    return None


def capability() -> tuple[int, int] | None:
    """The compute capability of the GPU, where there is one."""
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def main() -> int:
    """Unpack a bundle and say whether its kernels serve here.

    Returns:
        0 where they do, 3 where they can be compiled anew before they are needed, 4 where they cannot.
    """
    parser = argparse.ArgumentParser(prog="bench.gpu.bundle.kit", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument(
        "folder", type=Path, help="folder to unpack to; one that holds the same bundle is left as it is"
    )
    given = parser.parse_args()
    why = fault(given.bundle, given.folder)
    if why is not None:
        parser.error(why)
    if not given.folder.exists():
        unpack(given.bundle, given.folder)
    sys.path.append(str(given.folder / "site"))
    made, here, gpu = manifest(given.bundle), keys(), capability()
    if gpu not in (None, CAPABILITY):
        print(f"MISS: the kernels are for compute capability {CAPABILITY}, and this GPU has {gpu}")
        return 4
    names = [*made["keys"], *(name for name in here if name not in made["keys"])]  # Triton's come before the kernels'
    other = [name for name in names if here.get(name) != made["keys"].get(name)]
    if other:
        more = f" and {len(other) - SHOWN} more" if len(other) > SHOWN else ""
        print(f"MISS: {len(other)} of {len(names)} keys differ: {', '.join(other[:SHOWN])}{more}")
        return 3
    print(f"HIT: Triton {here['version']}, {made['kernels']} kernels of {made['commit'][:12]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

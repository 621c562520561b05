"""Contents of the bundle: packing a pruned kernel cache, then unpacking and checking it on the machine with the GPU."""

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
SUFFIXES = (".cubin", ".json", ".so")  # of the files in Triton's cache that a launch reads
GROUP = "__grp__"
CAPABILITY = (9, 0)  # compute capability of the kernels
MAX_NAMES = 6  # different keys that a message names


def manifest(folder: Path) -> dict[str, Any]:
    """Read the manifest of a bundle, packed or unpacked."""
    facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    return facts


def keys() -> dict[str, str]:
    """Return digests of the parts of Triton's cache keys: Triton's files, ptxas, the environment and our kernels."""
    import triton
    from triton._C.libtriton import get_cache_invalidating_env_vars
    from triton.backends.compiler import GPUTarget
    from triton.compiler import make_backend
    from triton.runtime.cache import triton_key

    from mspipe_triton.kernels.runtime.launch import KERNELS

    importlib.import_module("bench.cases.registry")  # which imports every kernel
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


def pack(cache: Path, archive: Path) -> int:
    """Pack the files of a Triton cache that a launch reads, with relative paths; return the number of kernels."""
    kernels = 0
    with tarfile.open(archive, "w:xz") as tar:
        for path in sorted(cache.rglob("*")):
            if path.is_file() and path.suffix in SUFFIXES and not path.parent.name.startswith("tmp."):
                kernels += path.suffix == ".cubin"
                tar.add(path, str(path.relative_to(cache)))
    return kernels


def unpack_cache(archive: Path, cache: Path, final: Path) -> None:
    """Unpack a Triton cache that will move to `final`, and adapt the absolute paths in its groups."""
    cache.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive) as tar:
        tar.extractall(cache, filter="data")
    for path in cache.glob(f"*/{GROUP}*.json"):
        names = json.loads(path.read_text(encoding="utf-8"))["child_paths"]
        folder = final / path.parent.name
        paths = {name: str(folder / name) for name in names if (path.parent / name).exists()}
        path.write_text(json.dumps({"child_paths": paths}), encoding="utf-8")


def install(wheels: Path, site: Path) -> list[str]:
    """Unzip the wheels whose packages are not installed here; return their names."""
    names = []
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            tops = {path.split("/")[0] for path in archive.namelist() if ".dist-info" not in path}
            modules = {top.split(".")[0] for top in tops if not top.endswith(".data")}
            if any(importlib.util.find_spec(module) is None for module in modules):
                archive.extractall(site)
                names.append(wheel.name.split("-")[0])
    return names


def unpack(bundle: Path, folder: Path) -> None:
    """Unpack a bundle; the folder is complete or does not exist."""
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    print(f"installed {', '.join(install(bundle / WHEELS, part / 'site')) or 'no package'}")
    unpack_cache(bundle / CACHE, part / "cache", folder / "cache")
    for name in (REFERENCES, "wiki.csv", "uci.csv"):
        os.symlink((bundle / name).resolve(), part / name)
    shutil.copyfile(bundle / MANIFEST, part / MANIFEST)
    os.replace(part, folder)


def fault(bundle: Path, folder: Path) -> str | None:
    """Return the reason that a bundle cannot be unpacked to a folder, or None."""
    missing = [
        name for name in (MANIFEST, CACHE, WHEELS, REFERENCES, "wiki.csv", "uci.csv") if not (bundle / name).exists()
    ]
    if missing:
        return f"{bundle} has no {', no '.join(missing)}; make a bundle with `python3 -m bench.gpu.bundle FOLDER`"
    if folder.exists() and not (folder / MANIFEST).exists():
        return f"{folder} exists and holds no bundle; name another folder, or remove it"
    if folder.exists() and manifest(folder) != manifest(bundle):
        return f"{folder} holds another bundle; name another folder, or remove it"
    return None


def capability() -> tuple[int, int] | None:
    """Return the GPU's compute capability, or None without a GPU."""
    import torch

    return torch.cuda.get_device_capability() if torch.cuda.is_available() else None


def main() -> int:
    """Unpack a bundle and report whether its kernels fit this machine.

    Returns:
        0 if they do, 3 if they can be compiled again in advance, 4 if they cannot.
    """
    parser = argparse.ArgumentParser(prog="bench.gpu.bundle.kit", description=__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path, help="folder to unpack to; reused if it holds the same bundle")
    arguments = parser.parse_args()
    reason = fault(arguments.bundle, arguments.folder)
    if reason is not None:
        parser.error(reason)
    if not arguments.folder.exists():
        unpack(arguments.bundle, arguments.folder)
    sys.path.append(str(arguments.folder / "site"))
    facts, here, gpu = manifest(arguments.bundle), keys(), capability()
    if gpu not in (None, CAPABILITY):
        print(f"MISS: the kernels are for compute capability {CAPABILITY}, and this GPU has {gpu}")
        return 4
    there = facts["keys"]
    names = [*there, *(name for name in here if name not in there)]  # Triton's keys come before the kernels'
    differences = [name for name in names if here.get(name) != there.get(name)]
    if differences:
        more = f" and {len(differences) - MAX_NAMES} more" if len(differences) > MAX_NAMES else ""
        print(f"MISS: {len(differences)} of {len(names)} keys differ: {', '.join(differences[:MAX_NAMES])}{more}")
        return 3
    print(f"HIT: Triton {here['version']}, {facts['kernels']} kernels of {facts['commit'][:12]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

"""The installed package: its files, the cost of importing it, and the names that import it."""

from __future__ import annotations

import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def python(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, capture_output=True, text=True, timeout=120)


def test_importing_is_fast_and_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import mspipe_triton, sys; assert not {'torch', 'pyarrow', 'typer'} & sys.modules.keys(), sys.modules.keys()"
    )
    seconds = []
    for _ in range(3):
        start = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = python(code, tmp_path)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime)
        assert done.returncode == 0, done.stderr
    assert min(seconds) < 0.3


def test_public_names_load_on_use(tmp_path: Path) -> None:
    code = "import mspipe_triton as m; [getattr(m, n) for n in m.__all__]; assert set(m.__all__) <= set(dir(m)); m.nope"
    done = python(code, tmp_path)
    assert "module 'mspipe_triton' has no attribute 'nope'" in done.stderr


@pytest.mark.parametrize("place", ["root", "elsewhere"])
def test_kernels_and_tuning_import_under_the_package(place: str, tmp_path: Path) -> None:
    folder = ROOT if place == "root" else tmp_path
    assert python("import mspipe_triton.kernels, mspipe_triton.tuning", folder).returncode == 0


@pytest.mark.parametrize("name", ["kernels", "tuning"])
def test_bare_names_are_refused_with_the_right_one(name: str) -> None:
    done = python(f"import {name}", ROOT)
    assert f"installs as mspipe_triton.{name}, not as '{name}'" in done.stderr


def test_the_wheel_contains_the_tracked_files_and_works(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if tracked.returncode:
        pytest.skip("not a git checkout")
    clean = tmp_path / "clean"
    for name in tracked.stdout.splitlines():
        if (ROOT / name).is_file():
            (clean / name).parent.mkdir(parents=True, exist_ok=True)
            (clean / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q", "-w", str(tmp_path), "."]
    subprocess.run(build, cwd=clean, check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    shipped = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = set()
    for name in tracked.stdout.splitlines():
        top, _, rest = name.partition("/")
        if top == "mspipe_triton":
            expected.add(name)
        elif top in ("kernels", "tuning"):
            expected.add(f"mspipe_triton/{top}/{rest}")
    assert shipped == expected
    archive.extractall(tmp_path / "site")
    path = f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r})"
    elsewhere = python(f"{path}; import mspipe_triton.kernels as k; print(k.__file__)", tmp_path)
    assert elsewhere.stdout.strip() == str(tmp_path / "site" / "mspipe_triton" / "kernels" / "__init__.py")


ALONE = """
import sys, torch{triton}
before = {{name.split('.')[0] for name in sys.modules}}
import mspipe_triton.kernels as kernels
added = {{name.split('.')[0] for name in sys.modules}} - before - set(sys.stdlib_module_names)
assert added == {{'mspipe_triton'}}, added
ours = {{name for name in sys.modules if name.startswith('mspipe_triton.')}}
assert all(name.startswith('mspipe_triton.kernels') or name == 'mspipe_triton.lazy' for name in ours), ours
ids, inverse, count = kernels.unique_nodes(torch.tensor([4, 2, 4]), 3)
assert (ids.tolist(), inverse.tolist(), count.tolist()) == ([4, 2, -1], [0, 1, 0], [2])
cell = torch.nn.GRUCell(5, 2)
table, times = torch.zeros(3, 2), torch.ones(1)
h = kernels.memory_gru(table, None, table, None, table[:, :0], None, torch.zeros(3), torch.ones(3, dtype=torch.bool),
                       times, times, *cell.parameters())
h.sum().backward()
"""


@pytest.mark.parametrize("triton", [", triton", "; sys.modules['triton'] = None"], ids=["", "no triton"])
def test_kernels_need_only_torch_and_triton_and_work_without_a_gpu(triton: str, tmp_path: Path) -> None:
    done = python(ALONE.format(triton=triton), tmp_path)
    assert done.returncode == 0, done.stderr

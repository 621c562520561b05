"""Checks and times every kernel on a GPU and writes gpu-kernels.json; `--device cpu --quick` tries the script itself.

Each operation is checked and timed in processes of its own, so that one which breaks the device's context leaves the
others theirs. Checks run side by side, timings one after the other.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from bench.cases import OPERATIONS
from bench.gpu_checks import Checker
from bench.gpu_timings import CASES, COMPILED, timings, with_rates
from bench.machine import machine
from bench.roofline import Roofline, measure
from bench.scene import TINY
from bench.variants import failures
from mspipe_triton.kernels.launch import triton

ROOT = Path(__file__).resolve().parent.parent
FILE, RECORDS = "gpu-kernels.json", "records"
WORKERS = 8


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="bench.gpu", description=__doc__)
    parser.add_argument("out", type=Path, help=f"folder for {FILE}")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: Triton's interpreter")
    parser.add_argument("--quick", action="store_true", help="one tiny shape and no figure that means anything")
    parser.add_argument("--only", default=",".join(OPERATIONS), help="operations, with commas between")
    parser.add_argument("--seconds", type=float, default=420, help="time nothing that starts later")
    parser.add_argument("--seed", type=int, default=None, help="of the checks' inputs; the time where left out")
    parser.add_argument("--commit", default=None, help="what is measured, where git cannot say")
    parser.add_argument("--part", default="", help=argparse.SUPPRESS)
    parser.add_argument("--until", type=float, default=0.0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    unknown = set(given.only.split(",")) - set(OPERATIONS)
    if unknown:
        parser.error(f"--only names {', '.join(sorted(unknown))}; there are {', '.join(OPERATIONS)}")
    if given.out.exists() and not given.out.is_dir():
        parser.error(f"{given.out} is a file; name a folder")
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("no CUDA device is visible; `--device cpu --quick` tries the script in Triton's interpreter")
    return given


def main() -> int:
    """Run all parts; 1 where a check failed or a process broke."""
    given = arguments()
    if given.part:
        return part(given)
    given.seed = int(time.time()) % 1_000_000 * 1000 if given.seed is None else given.seed
    given.until = time.time() + given.seconds
    given.out.mkdir(parents=True, exist_ok=True)
    gpu_there, names = given.device == "cuda", given.only.split(",")
    report: dict[str, Any] = {
        "command": f"{'bench/gpu.sh' if gpu_there else 'python -m bench.gpu'} {' '.join(sys.argv[1:])}",
        "commit": given.commit or commit(), "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": given.seed, "quick": given.quick, "machine": machine(), "versions": versions(),
        "correctness": [], "timings": [],
    }  # fmt: skip
    if gpu_there:
        alone = [*([("timings", [name])] for name in names), [("compile", names)]]
        rounds = [[("machine", names)], [("checks", [name]) for name in names] + [("deterministic", names)], *alone]
    else:  # no context can break, so one process does for everything
        rounds = [[("machine,checks,deterministic,timings", names)]]
    for parts in rounds:
        start = time.time()
        with ThreadPoolExecutor(WORKERS) as pool:
            results = list(pool.map(lambda both: run_part(given, *both), parts))
        for found in results:
            add(report, found)
        (given.out / FILE).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        titles = {f"{part} {','.join(group) if len(group) == 1 else ''}".strip() for part, group in parts}
        print(f"{time.time() - start:4.0f} s  {', '.join(sorted(titles))}", flush=True)
    failed = [check for check in report["correctness"] if not check["passed"]]
    show(report, failed)
    return 1 if failed else 0


def add(report: dict[str, Any], found: dict[str, Any]) -> None:
    """Add what a part found to the report, with rates where the machine's ceilings are known."""
    report["machine"] |= found.get("machine", {})
    if "roofline" in found:
        report["roofline"] = found["roofline"]
    report["correctness"] += found["correctness"]
    ceilings = Roofline(**report["roofline"]) if "roofline" in report else None
    report["timings"] += [with_rates(entry, ceilings) if ceilings else entry for entry in found["timings"]]


def run_part(given: argparse.Namespace, name: str, group: list[str]) -> dict[str, Any]:
    """Run a part in a process of its own and read what it wrote, as far as it came."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--device", given.device, "--seed", str(given.seed), "--until", str(given.until)]
        options += ["--only", ",".join(group), "--part", name, *(["--quick"] if given.quick else [])]
        environment = {**os.environ, "TRITON_INTERPRET": "1" if given.device == "cpu" else "0"}
        if name == "deterministic":  # without it, torch refuses matrix products in deterministic mode
            environment["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
        # What is past its time is cut off a little later, so that the parts behind it can say that they were skipped.
        limit = max(given.until - time.time(), 0) + 120
        try:
            run = subprocess.run(
                [sys.executable, "-m", "bench.gpu", folder, *options],
                cwd=ROOT, env=environment, timeout=limit, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
            code, message = run.returncode, run.stderr[-1500:]
        except subprocess.TimeoutExpired:
            code, message = 124, f"cut off after {limit:.0f} s"
        records = Path(folder, RECORDS)
        lines = records.read_text(encoding="utf-8") if records.exists() else ""
    found: dict[str, Any] = {"correctness": [], "timings": []}
    for line in lines.split("\n")[:-1]:  # a process that was cut off may leave half a line
        key, value = json.loads(line)
        if isinstance(found.get(key), list):
            found[key].append(value)
        else:
            found[key] = value
    if code:
        broken = {"operation": ",".join(group), "check": f"process of part {name}", "passed": False}
        found["correctness"].append({**broken, "message": f"exit code {code}: {message}"})
    return found


def part(given: argparse.Namespace) -> int:
    """In the process of some parts: write each result as a line [kind, value] as soon as it is there."""
    device, names = torch.device(given.device), given.only.split(",")
    checkers = [Checker(name, device, given.seed + 1000 * place, given.quick) for place, name in enumerate(OPERATIONS)]
    checkers = [checker for checker in checkers if checker.name in names]
    with (given.out / RECORDS).open("w", encoding="utf-8") as file:

        def write(kind: str, value: Any) -> None:
            file.write(json.dumps([kind, value]) + "\n")
            file.flush()

        for job in given.part.split(","):
            if job == "machine":
                write("machine", gpu() if device.type == "cuda" else {})
                write("roofline", measure(device, given.quick).as_json())
            for checker in checkers:
                if job == "checks":
                    for check in checker.checks():
                        write("correctness", check)
                if job == "deterministic":
                    write("correctness", checker.deterministic())
                if job in ("timings", "compile"):
                    shapes = [TINY] if given.quick else COMPILED if job == "compile" else CASES
                    for entry in timings(checker.name, device, shapes, job == "compile", given.until, given.quick):
                        write("timings", entry)
    return 0


def gpu() -> dict[str, Any]:
    """What the GPU is."""
    properties = torch.cuda.get_device_properties(0)
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    return {
        "device": properties.name, "driver": driver, "capability": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count, "memory_gib": round(properties.total_memory / 2**30, 1),
        "l2_mib": properties.L2_cache_size / 2**20,
    }  # fmt: skip


def versions() -> dict[str, str]:
    """What a result depends on."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "cuda": str(torch.version.cuda),
        "triton": "none" if triton is None else triton.__version__,
    }  # fmt: skip


def commit() -> str:
    """The checkout's commit, with "+" where files differ from it."""
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True)
        changed = subprocess.run(["git", "status", "--porcelain"], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


def show(report: dict[str, Any], failed: list[dict[str, Any]]) -> None:
    """What failed, then one table: a line a case, microseconds a variant, the share of the floor of the best kernel."""
    for check in failed[:20]:
        why = check.get("message") or failures(check["results"])
        print(
            "FAILED",
            check["operation"],
            check["check"],
            check.get("shape", ""),
            check.get("settings", ""),
            str(why)[:300],
        )
    lines: dict[tuple[str, ...], dict[str, dict[str, Any]]] = {}
    for entry in report["timings"]:
        if "seconds" in entry:
            key = tuple(entry[part] for part in ("operation", "case", "direction", "precision"))
            lines.setdefault(key, {})[entry["variant"]] = entry
    hows = ["eager", "compile", "triton", "triton-split"]
    print(f"{'microseconds':<46}" + "".join(f"{how.replace('triton-', ''):>9}" for how in hows) + "    floor share")
    for key, by_variant in lines.items():
        name, case, direction, precision = key
        times = [f"{by_variant[how]['seconds']['p50'] * 1e6:9.1f}" if how in by_variant else " " * 9 for how in hows]
        best = max((entry.get("share_of_floor", 0.0), how) for how, entry in by_variant.items())[0]
        floor = next(iter(by_variant.values())).get("floor_seconds", 0.0) * 1e6
        title = f"{name[:23]} {case} {direction[:4]}{' tf32' if precision == 'tf32' else ''}"
        print(f"{title:<46}{''.join(times)}{floor:9.2f}{best:6.0%}")
    skipped = sum("skipped" in entry for entry in report["timings"])
    print(f"{len(report['correctness']) - len(failed)} checks passed, {len(failed)} failed, {skipped} timings skipped")


if __name__ == "__main__":
    raise SystemExit(main())

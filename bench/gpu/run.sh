#!/usr/bin/env bash
# Runs a script on a machine with a GPU: bench/gpu/run.sh first|second OUT BUNDLE [options of bench.gpu]. BUNDLE comes from
# bench.gpu.bundle and must stay in its place; OUT gets gpu-first.json or gpu-second.json, written as the script runs. It
# needs python3 with torch, triton and the trainer's packages (PYTHON names another Python), and downloads nothing. KIT
# names the folder to unpack to, which a second run reuses.
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: [PYTHON=python3] bench/gpu/run.sh first|second OUT BUNDLE [options of bench.gpu]" >&2
    exit 2
fi
began=$EPOCHREALTIME
script=$1 out=$(realpath -m -- "$2") bundle=$(realpath -m -- "$3")
shift 3
python=${PYTHON:-python3}
case $python in */*) python=$(realpath -s -- "$python") ;; esac
kit=$(realpath -m -- "${KIT:-${TMPDIR:-/tmp}/mspipe-kit-$(cksum 2>/dev/null <"$bundle/manifest.json" | tr -dc 0-9)}")
cd "$(dirname -- "${BASH_SOURCE[0]}")/../.."
if ! why=$("$python" -c "import torch, triton, numpy, pyarrow, typer, rich, torchmetrics, torch_geometric" 2>&1); then
    echo "bench/gpu/run.sh: $python lacks a package ($(tail -n 1 <<<"$why")); set PYTHON to one that has it, as in PYTHON=.venv/bin/python" >&2
    exit 2
fi
export PYTHONPATH="$PWD:$kit/site${PYTHONPATH:+:$PYTHONPATH}" TRITON_CACHE_DIR="$kit/cache" PYTHONUNBUFFERED=1
code=0 options=()
"$python" -m bench.gpu.bundle.kit "$bundle" "$kit" || code=$?
case $code in
    0 | 4) ;;
    3) options+=(--prewarm) ;;
    *) exit "$code" ;;
esac
exec "$python" -m bench.gpu "$script" "$out" --kit "$kit" --began "$began" "${options[@]}" "$@"

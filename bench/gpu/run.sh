#!/usr/bin/env bash
# Runs a script on a machine with a GPU: bench/gpu/run.sh first|second OUT BUNDLE [options of bench.gpu]. BUNDLE is what
# bench.gpu.bundle made; OUT gets gpu-first.json or gpu-second.json, written as it goes. It takes python3 with torch and
# triton (PYTHON names another); nothing is fetched. KIT names where to unpack, which a second run finds again.
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
kit=$(realpath -m -- "${KIT:-${TMPDIR:-/tmp}/mspipe-kit}")
cd "$(dirname -- "${BASH_SOURCE[0]}")/../.."
if ! "$python" -c "import torch, triton" 2>/dev/null; then
    echo "bench/gpu/run.sh: $python has no torch and triton; name one that has, as in PYTHON=.venv/bin/python" >&2
    exit 2
fi
export PYTHONPATH="$PWD:$kit/site${PYTHONPATH:+:$PYTHONPATH}" TRITON_CACHE_DIR="$kit/cache" PYTHONUNBUFFERED=1
code=0
"$python" -m bench.gpu.kit "$bundle" "$kit" || code=$?
if [ "$code" = 3 ]; then
    "$python" -m bench.gpu prewarm "$kit" --target stub --kit "$kit" || echo "kernels are compiled as they come"
elif [ "$code" != 0 ]; then
    exit "$code"
fi
exec "$python" -m bench.gpu "$script" "$out" --kit "$kit" --began "$began" "$@"

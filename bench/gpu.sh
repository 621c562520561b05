#!/usr/bin/env bash
# Checks and times every kernel on a GPU: bench/gpu.sh OUT_FOLDER [options of bench.gpu]. It takes python3 with torch and
# triton (PYTHON names another), nothing that must be installed or fetched, and leaves OUT_FOLDER/gpu-kernels.json.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: bench/gpu.sh OUT_FOLDER [--only NAMES] [--seconds S] [--commit NAME]" >&2
    exit 2
fi
out=$(realpath -m -- "$1")
shift
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."
PYTHONPATH=. PYTHONUNBUFFERED=1 exec "${PYTHON:-python3}" -m bench.gpu "$out" "$@"

#!/usr/bin/env bash
# Checks and times every kernel on a GPU: bench/gpu.sh OUT_FOLDER [options of bench.gpu]. It takes python3 with torch and
# triton (PYTHON names another), nothing that must be installed or fetched, and leaves OUT_FOLDER/gpu-kernels.json. Where
# the trainer's packages are there too, the schedules follow, in OUT_FOLDER/gpu-pipeline.json, and resident training, in
# OUT_FOLDER/gpu-resident.json; and where Optuna is, tuning, in OUT_FOLDER/gpu-tuning.json.
set -euo pipefail
if [ $# -lt 1 ]; then
    echo "usage: [PYTHON=python3] bench/gpu.sh OUT_FOLDER [--only NAMES] [--seconds S] [--seed N] [--commit NAME]" >&2
    exit 2
fi
python=${PYTHON:-python3}
case $python in */*) python=$(realpath -s -- "$python") ;; esac
out=$(realpath -m -- "$1")
shift
cd "$(dirname -- "${BASH_SOURCE[0]}")/.."
if ! "$python" -c "import torch, triton" 2>/dev/null; then
    echo "bench/gpu.sh: $python has no torch and triton; name one that has, as in PYTHON=.venv/bin/python" >&2
    exit 2
fi
export PYTHONPATH=. PYTHONUNBUFFERED=1
code=0
"$python" -m bench.gpu "$out" "$@" || code=$?
if "$python" -c "import tomli_w, pyarrow, torchmetrics" 2>/dev/null; then
    options=()
    while [ $# -gt 0 ]; do
        case $1 in
            --device | --commit) options+=("$1" "$2"); shift ;;
            --quick) options+=("$1") ;;
        esac
        shift
    done
    "$python" -m bench.gpu_pipeline "$out" "${options[@]}" || code=$?
    "$python" -m bench.gpu_resident "$out" "${options[@]}" || code=$?
    if "$python" -c "import optuna, platformdirs" 2>/dev/null; then
        "$python" -m bench.gpu_tuning "$out" "${options[@]}" || code=$?
    else
        echo "bench/gpu.sh: tuning was left out, since $python lacks optuna or platformdirs" >&2
    fi
else
    echo "bench/gpu.sh: the schedules and resident training were left out, since $python lacks tomli_w, pyarrow or torchmetrics" >&2
fi
exit "$code"

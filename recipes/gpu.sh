#!/bin/bash
# Trains the next edition of the shipped base and its controls on a machine with one GPU and no network, from
# recipes/gpu_bundle.py's folder:
#
#   OUT=results bash recipes/gpu.sh [--limit 9.6 ...]        (options: python recipes/gpu.py --help)
#
# Everything happens in a copy of the folder, $WORK, where a second call continues with what the first did not finish.
# While one runs there is a file $WORK/running. Where a call may not take so long: see recipes/README.md.
set -u
export STARTED=$(date +%s) OUT=$(realpath -m "${OUT:-results}") WORK=${WORK:-${TMPDIR:-/tmp}/tether-gpu}
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-2} HF_HUB_OFFLINE=1
export OPENCV_FOR_THREADS_NUM=1 TORCHDYNAMO_SUPPRESS_ERRORS=1  # pools use all cores; what cannot be compiled runs as it is
PYTHON=${PYTHON:-python3}
mkdir -p "$OUT"
if [ ! -e "$WORK/copied" ]; then
    mkdir -p "$WORK" && cp -r "$(dirname "$0")/../." "$WORK" && touch "$WORK/copied" || exit 1
fi
cd "$WORK" || exit 1
touch running
trap 'rm -f "$WORK/running"' EXIT
export PYTHONPATH=$WORK/src:$WORK/site
if [ ! -e site ]; then
    mkdir site
    for wheel in wheels/*.whl; do
        name=$(basename "$wheel" | cut -d- -f1)
        "$PYTHON" -c "import importlib.metadata as m; m.version('$name')" 2>/dev/null && continue
        "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target site "$wheel" 2>&1 | grep -v WARNING
    done
fi
"$PYTHON" recipes/gpu.py "$@"

#!/bin/bash
# Runs studies whose variants are trained on a machine with one GPU and no network, side by side, in limited time:
#
#   OUT=results bash recipes/studies_gpu.sh                        # zero-convolution, sudden-convergence, comparison
#   STUDIES="comparison" MINUTES=9 bash recipes/studies_gpu.sh     # one of them
#   DEVICE=cpu STUDIES=comparison OPTIONS=--quick bash recipes/studies_gpu.sh       # a trial here
#
# The budget is ten times the samples of the studies' own: as many steps of ten times the batch, which costs a GPU little
# more; four parts of each run at once. Everything is kept in $WORK: what is not finished after $MINUTES goes on in a
# second call, from its checkpoints.
# $OUT gets one archive for each study that finished (report, figures, numbers), and the log of each. Of the project it
# needs src, without weights/detectors and weights/control-union, and recipes. Packages that the machine lacks are taken
# from build/wheels, see recipes/gpu_bundle.py; figures need matplotlib.
set -u
cd "$(dirname "$0")/.." || exit 1
export OUT=$(realpath -m "${OUT:-results}") WORK=$(realpath -m "${WORK:-${TMPDIR:-/tmp}/tether-studies}")
export PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 OMP_NUM_THREADS=${OMP_NUM_THREADS:-4} HF_HUB_OFFLINE=1
export PYTHONPATH=$PWD/src:$WORK/site OPENCV_FOR_THREADS_NUM=1
STUDIES=${STUDIES:-zero-convolution sudden-convergence comparison}
MINUTES=${MINUTES:-9} DEVICE=${DEVICE:-cuda} OPTIONS=${OPTIONS:---batch-size 160 --jobs 4} PYTHON=${PYTHON:-python3}
mkdir -p "$OUT" "$WORK/site"
for wheel in build/wheels/*.whl; do
    [ -e "$wheel" ] || continue
    name=$(basename "$wheel" | cut -d- -f1)
    "$PYTHON" -c "import importlib.metadata as m; m.version('$name')" 2>/dev/null && continue
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --no-cache-dir --target "$WORK/site" "$wheel"
done
started=()
for study in $STUDIES; do
    # shellcheck disable=SC2086  # several options
    timeout --signal=TERM --kill-after=20 "${MINUTES}m" "$PYTHON" -m tether study "$study" --device "$DEVICE" $OPTIONS \
        --out "$WORK/$study" > "$OUT/$study.log" 2>&1 < /dev/null &
    started+=($!)
done
status=0
for process in "${started[@]}"; do wait "$process" || status=1; done
for study in $STUDIES; do
    if [ -e "$WORK/$study/report.md" ]; then
        (cd "$WORK/$study" && tar czf "$OUT/$study.tar.gz" -- report.md findings.json ./*.png)
        echo "$study: $OUT/$study.tar.gz"
    else
        echo "$study: not finished, see $OUT/$study.log; the same command goes on with it"
    fi
done
exit $status

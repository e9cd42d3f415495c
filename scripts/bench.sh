#!/bin/sh
# Measurements that every claim of speed refers to, into bench/results as JSON lines, each run under its command.
#   bench.sh FATHOM [QUICK]
# QUICK (any value): nano and mini only. With PyTorch installed (PYTHON, default python3) its figures stand beside ours.
fathom=$1
quick=$2
out=bench/results/$(date +%Y-%m-%d)-$(uname -m).jsonl
mkdir -p bench/results
run() {
    printf '{"command": "fathom bench %s --json", "date": "%s", "commit": "%s"}\n' "$1" \
        "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$(git rev-parse --short HEAD 2>/dev/null)" >>"$out"
    # shellcheck disable=SC2086
    "$fathom" bench $1 --json | tee -a "$out" || exit 1
}
presets="nano micro mini v2-lite"
[ -n "$quick" ] && presets="nano mini"
run machine
for p in $presets; do run "gemm --preset $p"; done
run "gemm --preset nano --precision f32"
run "gemm --preset mini --rows 1"
run "gemm --preset mini --rows 8"
run "train --preset nano"
run "train --preset nano --dense"
run "train --preset nano --optimizer muon --rows 8"
run "decode --preset mini --depth 0,4096,16384"
run "decode --preset mini --depth 0 --rows 1,2,4,8"
run "prefill --preset mini --depth 512,4096"
python=${PYTHON:-python3}
if "$python" -c 'import torch, transformers' 2>/dev/null; then
    printf '{"command": "bench/compare_pytorch.py --preset nano", "date": "%s"}\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >>"$out"
    "$python" bench/compare_pytorch.py --fathom "$fathom" --preset nano | tee -a "$out" || exit 1
else
    echo "no PyTorch: bench/compare_pytorch.py left out"
fi
echo "written to $out"

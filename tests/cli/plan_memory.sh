#!/bin/sh
# The peak that --dry-run predicts against the largest resident size of the same run (peak_bytes of --json, VmHWM): six
# runs of other sizes, precisions, optimizers and micro-batches, each within 5%. `fathom plan` agrees with --dry-run to 5%;
# its figure for use agrees with a generation in f32 and bounds one in bf16. Shards are made first: what is measured is training, not the tokenizer's.
. tests/cli/lib
[ -r /proc/self/status ] || { echo "plan_memory.sh: passed (nothing to measure with: no /proc/self/status)"; exit 0; }

field() { sed -n "s/.*\"$2\": \([0-9][0-9]*\).*/\1/p" "$1" | tail -n 1; }
within() { # NAME PREDICTED MEASURED PERCENT
    awk -v p="$2" -v m="$3" -v most="$4" -v name="$1" 'BEGIN {
        d = m > 0 ? 100 * (p - m) / m : 100
        printf "%-34s predicted %8.1f MiB, found %8.1f MiB, %+5.1f%%\n", name, p / 1048576, m / 1048576, d
        exit !(d <= most && d >= -most) }' || fail "$1: predicted $2, found $3: more than $4% apart"
}
shards() { # VOCAB
    ok tokenizer train --vocab "$1" --out "$dir/tok$1" corpus/tinystories_train.txt.zst
    ok data --tokenizer "$dir/tok$1" --out "$dir/data$1" corpus/tinystories_train.txt.zst
}
run() { # NAME ARGS...
    name=$1
    shift
    ok pretrain --dry-run --json --threads 2 "$@"
    predicted=$(field "$dir/out" peak_bytes)
    ok pretrain --json --threads 2 --out "$dir/run" "$@"
    within "$name" "$predicted" "$(field "$dir/out" peak_bytes)" 5
}
again() { rm -rf "$dir/run"; }

shards 320
shards 4096
run 'pico, bf16' --data "$dir/data320" --preset pico --steps 2
again
nano="--data $dir/data4096 --preset nano --steps 1"
# shellcheck disable=SC2086
run 'nano, bf16, Muon, micro-batch 8192' $nano --set train.optimizer=muon --set train.micro=8192 --set train.batch=8192
again
# shellcheck disable=SC2086
run 'nano, f32, recompute' $nano --precision f32 --set train.recompute=true
again
run 'micro of 3 layers, rows of 256' --data "$dir/data4096" --preset micro --steps 1 --seq 256 --set train.batch=2048 \
    --set train.micro=2048 --set model.num_hidden_layers=3
again
# shellcheck disable=SC2086
run 'nano, bf16, SOAP, Grokfast, EMA' $nano --set train.optimizer=soap --set train.soap_first=1 --set train.grokfast_lamb=2 \
    --set train.ema=0.9
again
# shellcheck disable=SC2086
run 'nano, bf16, AdamW' $nano --set train.optimizer=adamw

# the shape's own plan, from the same formulas
ok plan --preset nano --json --threads 2
sed 's/.*"training": {\([^}]*\)}.*/\1/' "$dir/out" >"$dir/training"
within 'plan --preset nano, as --dry-run' "$(field "$dir/training" total)" "$predicted" 5

# Use: weights, latent cache, one forward pass. In f32 the weights of a bf16 checkpoint are widened into memory. In bf16 they stay
# in the mapping, of which only what was read is resident (experts and rows of the embedding that were asked for): a bound.
m=$dir/run/checkpoints/1
awk 'BEGIN { for (i = 0; i < 45; i++) printf "Once upon a time there was a big dog %d. ", i }' >"$dir/prompt"
use() { # PRECISION: total and peak
    ok plan --model "$m" --context 1024 --chunk 256 --json --threads 2 --precision "$1"
    sed 's/.*"use": {\([^}]*\)}.*/\1/' "$dir/out" >"$dir/use"
    total=$(field "$dir/use" total)
    "$FATHOM" generate --model "$m" --threads 2 --prompt - --context 1024 --chunk 256 --tokens 350 --ignore-eos --json \
        --precision "$1" >"$dir/out" 2>"$dir/err" <"$dir/prompt" &
    pid=$!
    peak=0
    while now=$(sed -n 's/^VmHWM:[^0-9]*\([0-9]*\) kB/\1/p' "/proc/$pid/status" 2>/dev/null) && [ -n "$now" ]; do
        [ "$now" -gt "$peak" ] && peak=$now
        sleep 0.02
    done
    wait $pid || fail "generate: $(cat "$dir/err")"
    peak=$((peak * 1024))
}
use f32
within 'nano, generation, f32' "$total" $peak 5
use bf16
within 'nano, generation, bf16' "$total" $peak 40
[ "$total" -ge $peak ] || fail "generation takes $peak bytes, the plan says $total"
echo "plan_memory.sh: passed"

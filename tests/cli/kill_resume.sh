#!/bin/sh
# A run killed with SIGKILL at ten moments spread over it, three of them inside a checkpoint write, and
# resumed each time, ends in the same bytes as one left alone: weights, optimizer, samples and, times
# aside, metrics. Ctrl-C likewise. Needs FATHOM, the program.
set -eu
FATHOM=${FATHOM:-build/fathom}
dir=$(mktemp -d)
pid=
trap 'test -z "$pid" || kill -9 $pid 2>/dev/null || true; rm -rf "$dir"' EXIT
STEPS=44

awk 'BEGIN {
    split("The fox|A crow|The old lion|Some mice|A girl|The miller", who, "|")
    split("saw a grape|found some bread|slept in the sun|asked the moon|sang|ran home", what, "|")
    for (i = 0; i < 200; i++) {
        for (k = 0; k < 3 + i % 9; k++)
            printf "%s %s and %s. ", who[1 + (i + k) % 6], what[1 + (i * 3 + k) % 6], what[1 + (i + 2 * k) % 6]
        printf "\n<|endoftext|>\n"
    }
}' >"$dir/text.txt"

train() {
    exec "$FATHOM" pretrain --text "$dir/text.txt" --preset pico --steps $STEPS --seq 64 --threads 2 \
        --set train.batch=512 --set train.micro=256 --set train.saves=11 --set train.evals=4 \
        --set train.eval_tokens=1000 --json --out "$1" >>"$dir/log" 2>&1
}
last_step() {
    sed -n 's/^{"step":\([0-9]*\),"tokens":[0-9]*,"batch.*/\1/p' "$1/metrics.jsonl" 2>/dev/null | tail -n 1
}
writing() { # a checkpoint is being made
    for d in "$1"/checkpoints/*.tmp-*; do test -d "$d" && return 0; done
    return 1
}
compare() {
    for f in model.safetensors config.json trainer/optimizer.safetensors; do
        cmp "$dir/whole/checkpoints/$STEPS/$f" "$1/checkpoints/$STEPS/$f"
    done
    cmp "$dir/whole/samples.txt" "$1/samples.txt"
    for r in "$dir/whole" "$1"; do sed 's/,"seconds":.*//' "$r/metrics.jsonl" >"$r.metrics"; done
    cmp "$dir/whole.metrics" "$1.metrics"
}

(train "$dir/whole")

kills=0
inside=0
for i in 1 2 3 4 5 6 7 8 9 10; do
    aim=$((i * STEPS / 11 + 2)) # between two checkpoints
    (train "$dir/killed") &
    pid=$!
    while kill -0 $pid 2>/dev/null; do
        at=$(last_step "$dir/killed")
        if test "${at:-0}" -ge $aim; then
            # Every third time: the moment after that in which a checkpoint is half-written.
            if test $((i % 3)) -ne 0 || writing "$dir/killed"; then break; fi
        fi
    done
    kill -9 $pid 2>/dev/null && kills=$((kills + 1))
    wait $pid 2>/dev/null || true
    writing "$dir/killed" && inside=$((inside + 1))
    pid=
done
test $kills -eq 10 || { echo "only $kills of 10 kills hit the run"; exit 1; }
test $inside -ge 2 || { echo "only $inside kills were inside a checkpoint write"; exit 1; }
(train "$dir/killed")
compare "$dir/killed"

# Ctrl-C: the step is finished, the state saved, the way on named.
(train "$dir/stopped") &
pid=$!
while test "$(last_step "$dir/stopped" || true)" != 9 && kill -0 $pid 2>/dev/null; do :; done
kill -INT $pid 2>/dev/null || true
kill -TERM $pid
wait $pid || true
pid=
grep -q "go on with: fathom resume" "$dir/log"
"$FATHOM" resume "$dir/stopped" --threads 2 --json >>"$dir/log" 2>&1
compare "$dir/stopped"

# A damaged newest checkpoint: the one before is used, the warning is seen, the end is the same.
newest=$(ls "$dir/stopped/checkpoints" | sort -n | tail -n 1)
printf x | dd of="$dir/stopped/checkpoints/$newest/model.safetensors" bs=1 seek=20000 conv=notrunc 2>/dev/null
"$FATHOM" resume "$dir/stopped" --threads 2 --json >"$dir/again" 2>&1
grep -q "^fathom resume: warning: .*checkpoints/$newest is damaged and passed over: " "$dir/again"
compare "$dir/stopped"
echo "$kills kills, $inside inside a checkpoint write: the same bytes"

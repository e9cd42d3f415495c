#!/bin/sh
# A scaling study worked through under every disturbance: killed with SIGKILL and started again, two workers
# at once of which one dies, Ctrl-C, a run that diverges, a disk that is full, a directory that moves. Each
# time the losses must be those of the study left alone, to the last digit: no run lost, none trained
# twice. Then a comparison, and bad input. Needs FATHOM, the program.
set -eu
FATHOM=${FATHOM:-build/fathom}
case $FATHOM in */*) FATHOM=$(cd "$(dirname "$FATHOM")" && pwd)/$(basename "$FATHOM") ;; esac
dir=$(mktemp -d)
pids=
mounted=
cleanup() {
    for p in $pids; do kill -9 "$p" 2>/dev/null || true; done
    test -z "$mounted" || umount "$mounted" 2>/dev/null || true
    rm -rf "$dir"
}
trap cleanup EXIT
cd "$dir"
fail() { echo "FAIL: $*"; for f in *.log; do echo "--- $f"; tail -n 15 "$f"; done; exit 1; }
count() { ls "$1" | wc -l; }
losses() { tail -n +2 "$1/points.csv" | cut -d, -f1,10,11 | sort; }
whole() { # every run of the study is done, once, with the losses of the quiet one
    test "$(count "$1/queue/done")" -eq 6 || fail "$1: $(count "$1/queue/done") of 6 runs done"
    test "$(count "$1/queue/doing")" -eq 0 || fail "$1: leases are left"
    losses "$1" >"$1.losses"
    cmp quiet.losses "$1.losses" || fail "$1: losses differ from the quiet study"
}
started() { # STUDY N: waits until N runs are done and one at work is some steps in
    i=0
    until test "$(count "$1/queue/done")" -ge "$2" && for f in "$1"/queue/doing/*; do
        f=${f##*/}
        ! grep -q '"step":12,' "$1/runs/${f%%.*}/metrics.jsonl" 2>/dev/null || break
        false
    done; do
        i=$((i + 1)); test $i -lt 1500 || fail "$1: nothing is at work"
        sleep 0.02
    done
}

awk 'BEGIN {
    split("The fox|A crow|The old lion|Some mice|A girl|The miller", who, "|")
    split("saw a grape|found some bread|slept in the sun|asked the moon|sang|ran home", what, "|")
    for (i = 0; i < 400; i++) {
        for (k = 0; k < 3 + i % 9; k++)
            printf "%s %s and %s. ", who[1 + (i + k) % 6], what[1 + (i * 3 + k) % 6], what[1 + (i + 2 * k) % 6]
        printf "\n<|endoftext|>\n"
    }
}' >text.txt

design() {
    "$FATHOM" scale design --text text.txt --vocab 320 --seq 64 --epochs 100 --threads 1 --speed 2e10 --budgets 2 \
        --sizes 3 --set train.batch=256 --set train.save_minutes=0.002 "$@"
}
design --low 5e9 --high 1e10 --out study >design.log 2>&1 || fail design
for s in quiet killed both stopped full lease; do cp -r study $s; done

# Left alone. The same command again finds nothing to do.
"$FATHOM" scale run quiet --threads 1 >quiet.log 2>&1 || fail "the quiet study"
losses quiet >quiet.losses
whole quiet
test "$(wc -l <quiet.losses)" -eq 6 || fail "points.csv"
"$FATHOM" scale run quiet --threads 1 >again.log 2>&1 || fail "a finished study"
grep -q "started" again.log && fail "a finished run was started again"

# Killed at three moments; the child dies with its worker.
for k in 1 2 3; do
    "$FATHOM" scale run killed --threads 1 >>killed.log 2>&1 &
    pids=$!
    started killed $((k - 1))
    kill -9 $pids 2>/dev/null || fail "the worker was done before the kill"
    wait $pids 2>/dev/null || true
done
mv killed moved # a study may be moved, also in the middle
"$FATHOM" scale run moved --threads 1 >>killed.log 2>&1 || fail "after the kills"
pids=
grep -q "taken back" killed.log || fail "no run was taken back"
whole moved

# Two at once, one of them killed: the other takes its run.
"$FATHOM" scale run both --threads 1 >both1.log 2>&1 &
one=$!
"$FATHOM" scale run both --threads 1 >both2.log 2>&1 &
two=$!
pids="$one $two"
started both 0
kill -9 $one
wait $one 2>/dev/null || true
wait $two || fail "the second worker"
pids=
whole both
cat both1.log both2.log | sed -n 's/ *done: loss.*//p' | sort | uniq -d | grep . && fail "a run ended twice"
cat both1.log both2.log | sed -n 's/ *started$//p' | sort | uniq -d | grep . && fail "a run was started twice"
grep -q "taken back" both2.log || fail "the dead worker's run was not taken back"

# Two workers in one process; Ctrl-C saves what is at work.
"$FATHOM" scale run stopped --threads 1 --workers 2 >stopped.log 2>&1 &
pids=$!
started stopped 0
kill -INT $pids || true
kill -TERM $pids || true
wait $pids || fail "Ctrl-C"
pids=
grep -q "go on with: fathom scale run stopped" stopped.log || fail "Ctrl-C does not say how to go on"
test "$(count stopped/queue/doing)" -eq 0 || fail "Ctrl-C leaves leases"
"$FATHOM" scale run stopped --threads 1 --workers 2 >>stopped.log 2>&1 || fail "after Ctrl-C"
whole stopped

# A lease of another machine holds until it is old.
id=$(ls lease/queue/waiting | head -n 1)
mv "lease/queue/waiting/$id" "lease/queue/doing/$id.4242.elsewhere-00000000"
touch "lease/queue/doing/$id.4242.elsewhere-00000000"
"$FATHOM" scale run lease --threads 1 --lease 4 >lease.log 2>&1 || fail "a lease"
tail -n 3 lease.log | grep -q "^$id .*done" || fail "the foreign lease was not the last to be taken"
whole lease

# A full disk: the run stays to do, the message says so, and with room it goes on.
mkdir small
if mount -t tmpfs -o size=700k tmpfs small 2>/dev/null; then
    mounted=$dir/small
    cp -r full/. small/
    "$FATHOM" scale run small --threads 1 >full.log 2>&1 && fail "a full disk goes unnoticed"
    grep -q "No space left on device" full.log || fail "the message of a full disk"
    test "$(count small/queue/waiting)" -ge 1 || fail "runs are lost on a full disk"
    test "$(count small/queue/doing)" -eq 0 || fail "leases are left on a full disk"
    test "$(count small/queue/failed)" -eq 0 || fail "a full disk fails runs"
    mount -o remount,size=64m small
    "$FATHOM" scale run small --threads 1 >>full.log 2>&1 || fail "after making room"
    whole small
    umount small
    mounted=
fi
(ulimit -f 60 && "$FATHOM" scale run full --threads 1 >limit.log 2>&1) && fail "a file limit goes unnoticed"
grep -q "stays to do" limit.log || fail "the message of a file limit"
test "$(count full/queue/waiting)" -eq 6 || fail "runs are lost at a file limit"
"$FATHOM" scale run full --threads 1 >>limit.log 2>&1 || fail "without the limit"
whole full

# A run whose activations overflow is recorded as diverged, and the study goes on. Damaged indexes come back from the directories.
design --low 5e9 --high 1e10 --seeds 1 --out wild >wild.log 2>&1 || fail wild
id=$(ls wild/queue/waiting | head -n 1)
awk -v id="\"$id\"" '/"id":/ { on = index($0, id) } on && sub(/train\.lr=[0-9.e-]*/, "model.initializer_range=1e30") { on = 0 } { print }' \
    wild/plan.json >plan && mv plan wild/plan.json
"$FATHOM" scale run wild --threads 1 >>wild.log 2>&1 || fail "a run that diverges ends the study"
grep -q "^$id .*failed: .*\(diverged\|finite\)" wild.log || fail "the reason of a run that diverged"
test "$(count wild/queue/done)" -eq 5 && test "$(count wild/queue/failed)" -eq 1 || fail "counts with a diverged run"
grep -q "^$id" wild/points.csv && fail "a failed run in points.csv"
cp wild/points.csv points && rm -f wild/points.csv wild/index.db
"$FATHOM" scale run wild --reindex >index.log || fail reindex
cmp points wild/points.csv || fail "points.csv differs when it is rebuilt"

# A comparison: an idea that is the baseline under another name has a speed-up of 1; a worse one is below.
printf '[train]\nwarmup = 0.02\n' >same.ini
printf '[train]\nlr = 0.0002\n' >slow.ini
"$FATHOM" scale compare --idea same=same.ini --idea slow=slow.ini@"$FATHOM" --sizes 16,24 --seeds 2 --tokens 20000 \
    --text text.txt --vocab 320 --seq 64 --val-every 20 --threads 1 --speed 2e10 --set train.batch=256 --evals 8 \
    --out cmp >compare.log 2>&1 || fail compare
grep -q "^| all | - | 4 | 1.000 (1.000 to 1.000)" cmp/compare.md || fail "the same settings differ"
awk -F'|' '/^## / { idea = $0 } /^\| all/ && idea ~ /slow/ { split($5, v, " "); exit !(v[1] < 0.8) }' cmp/compare.md ||
    fail "a learning rate that is too low does not show"
test -s cmp/compare.json || fail "compare.json"

# Bad input.
refuse() { # CODE TEXT COMMAND..
    code=$1; text=$2; shift 2
    rc=0
    "$@" >bad.log 2>&1 || rc=$?
    test $rc -eq "$code" || fail "exit $rc, expected $code: $*"
    grep -q -- "$text" bad.log || fail "no \"$text\": $*"
}
refuse 1 "largest it can finish: --low .* --high" design --low 1e13 --high 1e17 --epochs 1e12 --out bad
refuse 1 "give more text" design --low 1e13 --high 1e14 --minutes 100000 --out bad
refuse 1 "give more --minutes" design --minutes 0.001 --out bad
refuse 1 "already exists" design --low 5e9 --high 1e10 --out study
refuse 1 "did you mean train.lr_end" design --low 5e9 --high 1e10 --set train.learning=1 --out bad
refuse 1 "smaller first" design --low 2e10 --high 1e10 --out bad
refuse 1 "no-such" "$FATHOM" scale design --text no-such --low 5e9 --high 1e10 --out bad
refuse 2 "expected --text or --data" "$FATHOM" scale design --out bad
refuse 2 "out is missing" "$FATHOM" scale design --text text.txt
refuse 2 "lr-law" design --lr-law x --out bad
refuse 1 "not a study" "$FATHOM" scale run nowhere
refuse 2 "expected the study" "$FATHOM" scale run
refuse 1 "NAME=recipe" "$FATHOM" scale compare --idea x --sizes 16 --text text.txt --out bad
refuse 1 "size \"17\"" "$FATHOM" scale compare --idea a=same.ini --sizes 17 --text text.txt --out bad
refuse 1 "program /no/such" "$FATHOM" scale compare --idea a=same.ini@/no/such --sizes 16 --text text.txt --out bad
echo '{"format": 1, "runs": [{"id": "a.b"}]}' >study/plan.json
refuse 1 "a.b" "$FATHOM" scale run study
test ! -e bad || fail "something is left of what was refused"
ls -d bad.tmp-* 2>/dev/null && fail "temporaries are left"
echo "six disturbances: the same losses; one diverged run recorded; comparison and refusals as expected"

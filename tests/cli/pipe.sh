#!/bin/sh
# What is written into a pipe or a file is plain lines: no control characters but newlines, no line longer than a screen
# draws over. A closed pipe and a full disk behind the output are failures, never a crash.
. tests/cli/lib

awk 'BEGIN { for (i = 0; i < 400; i++) printf "The fox saw a crow, %d times, and went home.\n<|endoftext|>\n", i }' >"$dir/text.txt"
plain() { # NAME FILE...: no control characters, whole lines
    name=$1
    shift
    for f in "$@"; do
        if LC_ALL=C tr -d '\n' <"$f" | LC_ALL=C grep -q '[[:cntrl:]]'; then fail "$name: control characters: $(od -c "$f" | head -n 20)"; fi
        [ ! -s "$f" ] || [ "$(tail -c 1 "$f" | od -An -c | tr -d ' ')" = '\n' ] || fail "$name: the last line is not ended"
    done
}

ok pretrain --text "$dir/text.txt" --preset pico --steps 12 --seq 64 --set train.batch=256 --set train.micro=256 --out "$dir/run"
plain pretrain "$dir/out" "$dir/err"
has "$dir/err" 'loss\|bits'
plain files "$dir/run/recipe.ini" "$dir/run/metrics.jsonl"
m=$dir/run/checkpoints/12
for c in "inspect --model $m" "inspect --model $m --json" "plan --preset nano" "generate --model $m --prompt The --tokens 8 --json" \
    "doctor --json" "report $dir/run --out $dir/report.html" "pretrain --text $dir/text.txt --preset nano --minutes 1 --dry-run"; do
    # shellcheck disable=SC2086
    ok $c
    plain "$c" "$dir/out" "$dir/err"
done
"$FATHOM" generate --model "$m" --prompt 'The' --tokens 30 --ignore-eos 2>"$dir/err" | cat >"$dir/out"
plain generate "$dir/err"

# the reader goes away, the disk is full
if [ -c /dev/full ]; then
    for c in --help "inspect --model $m" "generate --model $m --prompt The --tokens 5" "tokenizer encode --model $m"; do
        rc=0
        # shellcheck disable=SC2086
        echo The | "$FATHOM" $c >/dev/full 2>"$dir/err" || rc=$?
        same "exit code of $c on a full disk" 1 $rc
        has "$dir/err" 'No space left'
    done
fi
{
    "$FATHOM" inspect --model "$m" --json || echo "$?" >"$dir/rc"
} 2>"$dir/err" | true
sleep 0.2
[ ! -f "$dir/rc" ] || same "exit code into a closed pipe" 1 "$(cat "$dir/rc")"
echo "pipe.sh: passed"

#!/bin/sh
# `fathom generate` and `fathom chat` as other programs call them: the reference continuation, the
# same ids with drafting on and off and alone or in a batch, JSON, stop strings, errors and their
# exit codes, a conversation saved and loaded. Needs FATHOM, the program.
set -eu
FATHOM=${FATHOM:-build/fathom}
data=tests/data/reference
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

fail() {
    echo "generate.sh: $1" >&2
    exit 1
}
same() { [ "$2" = "$3" ] || fail "$1: expected $2, found $3"; }
ids_of() { sed -n 's/.*"ids": \[\([^]]*\)\].*/\1/p'; }
meta() { # the array $2 of a meta.json, on one line
    tr -d '\n ' <"$data/$1/meta.json" | sed "s/.*\"$2\":\[\([^]]*\)\].*/\1/; s/,/, /g"
}
wrong() { # exit code, words of the message, arguments
    code=$1 words=$2
    shift 2
    rc=0
    "$FATHOM" "$@" >"$dir/out" 2>"$dir/err" || rc=$?
    same "exit code of: $*" "$code" "$rc"
    grep -q "$words" "$dir/err" || fail "$*: no '$words' in: $(cat "$dir/err")"
}

# the reference hid the prompt's first token, see tests/test_session.c
for v in v3 v2-lite v3-fp8; do
    echo "[[$(meta $v greedy_prompt | sed 's/^0, //')]]" >"$dir/ids.json"
    got=$("$FATHOM" generate --model $data/$v --ids "$dir/ids.json" --tokens 48 --temperature 0 \
        --precision f32 --json | ids_of)
    same "$v" "$(meta $v greedy)" "$got"
done

M=$data/v3-mtp
echo "[[$(meta v3-mtp greedy_prompt)], [5, 6, 7]]" >"$dir/two.json"
echo "[5, 6, 7]" >"$dir/one.json"
for t in 0 30; do
    off=$("$FATHOM" generate --model $M --ids "$dir/two.json" --tokens 40 --temperature $t --seed 4 \
        --draft off --json | ids_of)
    on=$("$FATHOM" generate --model $M --ids "$dir/two.json" --tokens 40 --temperature $t --seed 4 \
        --draft mtp --json | ids_of)
    alone=$("$FATHOM" generate --model $M --ids "$dir/one.json" --tokens 40 --temperature $t \
        --seed 4 --draft mtp --drafts 3 --chunk 1 --json | ids_of)
    same "drafting at temperature $t" "$off" "$on"
    same "batch at temperature $t" "$(echo "$off" | tail -n 1)" "$alone"
done
"$FATHOM" generate --model $M --ids "$dir/one.json" --tokens 9 --ignore-eos --json --device fence |
    grep -q '"stop": "length", .*"tokens_per_second": [0-9.]*.*"drafted": .*"accepted": .*"main_forwards"' ||
    fail "keys of the JSON"

wrong 2 "one of --prompt and --ids" generate --model $M
wrong 1 "no tokenizer.json" generate --model $M --prompt hello
wrong 1 "max_position_embeddings" generate --model $M --ids "$dir/one.json" --tokens 1000
echo "[5, 320]" >"$dir/bad.json"
wrong 1 "320" generate --model $M --ids "$dir/bad.json"
echo "[5, \"x\"]" >"$dir/bad.json"
wrong 1 "index 1" generate --model $M --ids "$dir/bad.json"
wrong 1 "multi-token-prediction" generate --model $data/v3 --ids "$dir/one.json" --draft mtp
wrong 2 "off, mtp or auto" generate --model $M --ids "$dir/one.json" --draft no

# with a tokenizer: text, stop strings, chat
printf 'The fox saw a crow. The crow had some cheese. The fox said one word.\n' >"$dir/text.txt"
cp -r $M "$dir/model"
chmod -R u+w "$dir/model"
"$FATHOM" tokenizer train --vocab 320 --out "$dir/model" "$dir/text.txt" >/dev/null
text=$(printf 'The fox' | "$FATHOM" generate --model "$dir/model" --prompt - --tokens 40 --seed 1 \
    --ignore-eos 2>/dev/null | tr -d '\0' | od -An -tx1 | tr -d ' \n')
again=$("$FATHOM" generate --model "$dir/model" --prompt 'The fox' --tokens 40 --seed 1 \
    --ignore-eos --draft mtp 2>/dev/null | tr -d '\0' | od -An -tx1 | tr -d ' \n')
same "text" "$text" "$again"
printf 'Hello\n/set tokens 3\n/set top-p 2\nWhat?\n/save %s\n/new\n/load %s\nAnd?\n/nonsense\n/quit\n' \
    "$dir/talk.json" "$dir/talk.json" | "$FATHOM" chat --model "$dir/model" --tokens 9 --ignore-eos \
    >"$dir/talk.txt"
grep -q '^\[9 tokens' "$dir/talk.txt" || fail "chat: no first answer"
[ "$(grep -c '^\[3 tokens' "$dir/talk.txt")" = 2 ] || fail "chat: the setting did not hold"
grep -q '4 messages from' "$dir/talk.txt" || fail "chat: nothing loaded"
grep -q 'top-p: expected' "$dir/talk.txt" || fail "chat: a bad setting was taken"
printf 'Hello\nAgain\n' | "$FATHOM" chat --model "$dir/model" --tokens 5 --plain --ignore-eos \
    >"$dir/talk.txt"
[ "$(grep -c '^\[5 tokens' "$dir/talk.txt")" = 2 ] || fail "chat --plain"
echo "generate.sh: passed"

#!/bin/sh
# The tokenizer from the command line: training, ids out and back for any bytes, lines of JSON, special tokens, and
# DeepSeek-V3's own tokenizer against its golden encodings.
. tests/cli/lib

# A text with letters of several alphabets, digits, marks and bytes that are no UTF-8.
awk 'BEGIN {
    for (i = 0; i < 300; i++)
        printf "The old fox number %d saw a crow; the crow had %d pieces of cheese. Wie schön, sagte er.\n", i, i * 7
}' >"$dir/text.txt"
printf 'caf\303\251 \342\202\254 \360\237\246\212 12345\n\377\376 \000 \303(\n' >"$dir/bytes"

ok tokenizer train --vocab 400 --out "$dir/tok" "$dir/text.txt"
has "$dir/out" 'vocabulary 400'
ok tokenizer train --vocab 400 --out "$dir/tok2" "$dir/text.txt" --json
has "$dir/out" '"vocab": 400, "merges": '
for f in tokenizer.json tokenizer_config.json chat_template.jinja; do
    cmp "$dir/tok/$f" "$dir/tok2/$f" || fail "the same text gives another $f"
done
has "$dir/tok/tokenizer_config.json" PreTrainedTokenizerFast

for f in "$dir/text.txt" "$dir/bytes"; do
    "$FATHOM" tokenizer encode --model "$dir/tok" <"$f" >"$dir/ids"
    "$FATHOM" tokenizer decode --model "$dir/tok/tokenizer.json" <"$dir/ids" >"$dir/back"
    cmp "$f" "$dir/back" || fail "$f does not come back"
done
: >"$dir/empty"
same "ids of nothing" "[]" "$("$FATHOM" tokenizer encode --model "$dir/tok" <"$dir/empty")"

# a special token in the text is one id, with --no-special several
mark='<｜end▁of▁sentence｜>'
same "the mark" "[1]" "$(printf '%s' "$mark" | "$FATHOM" tokenizer encode --model "$dir/tok")"
plain=$(printf '%s' "$mark" | "$FATHOM" tokenizer encode --model "$dir/tok" --no-special)
same "the mark as text" "$mark" "$(echo "$plain" | "$FATHOM" tokenizer decode --model "$dir/tok")"
case "$plain" in *,*) ;; *) fail "--no-special: found $plain" ;; esac
same "decoded without marks" "a" "$(printf 'a%s' "$mark" | "$FATHOM" tokenizer encode --model "$dir/tok" |
    "$FATHOM" tokenizer decode --model "$dir/tok" --skip-special)"

printf '{"text": "one fox"}\n\n{"text": ""}\n' | "$FATHOM" tokenizer encode --model "$dir/tok" --jsonl >"$dir/rows"
same "rows" 2 "$(wc -l <"$dir/rows")"
same "the first row back" '{"text": "one fox"}' \
    "$("$FATHOM" tokenizer decode --model "$dir/tok" --jsonl <"$dir/rows" | head -n 1)"

# DeepSeek-V3's tokenizer, its golden encodings as rows
data=tests/data/tokenizer/deepseek-v3
if command -v zstd >/dev/null 2>&1; then
    zstd -q -d -c $data/tokenizer.json.zst >"$dir/v3.json"
    "$FATHOM" tokenizer encode --model "$dir/v3.json" --jsonl <$data/golden.jsonl | tr -d ' ' >"$dir/have"
    sed 's/.*"ids": *\(\[[^]]*\]\).*/\1/' $data/golden.jsonl | tr -d ' ' >"$dir/want"
    cmp "$dir/want" "$dir/have" || fail "golden encodings differ"
fi

wrong 2 'expected train, encode or decode' tokenizer
wrong 2 'expected train, encode or decode' tokenizer ecnode
wrong 2 '--vocab' tokenizer train --vocab 10 --out "$dir/x" "$dir/text.txt"
wrong 2 '--out' tokenizer train "$dir/text.txt"
wrong 1 'nowhere.txt' tokenizer train --vocab 400 --out "$dir/x" "$dir/nowhere.txt"
wrong 1 'nowhere' tokenizer encode --model "$dir/nowhere"
[ ! -e "$dir/x" ] || fail "a failed training left $dir/x"
for bad in '[400]' '[-1]' '["a"]' '{' '[1.5]' ''; do
    rc=0
    printf '%s' "$bad" | "$FATHOM" tokenizer decode --model "$dir/tok" >"$dir/out" 2>"$dir/err" || rc=$?
    same "exit code of decoding '$bad'" 1 $rc
    same "lines of the message for '$bad'" 1 "$(wc -l <"$dir/err")"
done
rc=0
printf '{"text": "a"}\n{"text": 5}\n' | "$FATHOM" tokenizer encode --model "$dir/tok" --jsonl >"$dir/out" 2>"$dir/err" || rc=$?
same "exit code of a bad row" 1 $rc
has "$dir/err" 'line 2'
echo "tokenizer.sh: passed"

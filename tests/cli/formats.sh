#!/bin/sh
# docs/formats.md names every key of recipe.ini, metrics.jsonl, state.json, data.json and schedule.json that a run writes,
# every file of a run, and no setting that does not exist.
. tests/cli/lib
doc=docs/formats.md

seq 1 900 | sed 's/.*/Line & of a text./; 0~5a <|endoftext|>' >"$dir/text.txt"
ok pretrain --text "$dir/text.txt" --preset pico --steps 3 --seq 64 --set train.batch=256 --set train.evals=2 --prompt 'Line' --out "$dir/run"

awk '/^\[/ { section = substr($0, 2, index($0, "]") - 2) } / = / { print section "." $1 }' "$dir/run/recipe.ini" >"$dir/keys"
[ "$(wc -l <"$dir/keys")" -ge 40 ] || fail "only $(wc -l <"$dir/keys") keys in recipe.ini"
while read -r key; do
    grep -q "\`$key\`" $doc || fail "recipe.ini: $key is not in $doc"
done <"$dir/keys"
# Settings of the document's table with their defaults, as a recipe: a key or a value that no run takes is refused.
sed -n 's/^| `\([a-z]*\)\.\([a-z0-9_]*\)` | \([^|]*\) | [^|]* | [^|]* |$/\1 \2 \3/p' $doc >"$dir/table"
[ "$(wc -l <"$dir/table")" -ge 40 ] || fail "only $(wc -l <"$dir/table") settings in the table"
awk '$3 == "" { next } $1 != section { section = $1; print "[" section "]" } { print $2 " = " $3 }' "$dir/table" >"$dir/recipe.ini"
ok pretrain --text "$dir/text.txt" --preset pico --steps 3 --dry-run --recipe "$dir/recipe.ini"

checkpoint=$dir/run/checkpoints/3
for f in "$dir/run/metrics.jsonl" "$checkpoint/trainer/state.json" "$dir/run/data/data.json" "$dir/run/schedule.json"; do
    for key in $(grep -o '"[a-z_0-9]*": *' "$f" | tr -d '": ' | sort -u); do
        grep -q "\`$key\`" $doc || fail "$(basename "$f"): $key is not in $doc"
    done
done
for f in $(ls "$dir/run" "$checkpoint" "$checkpoint/trainer" | grep '\.\(ini\|json\|jsonl\|txt\|safetensors\|jinja\)$' | sort -u); do
    grep -q "\`$f\`" $doc || fail "$f is not in $doc"
done
[ -L "$dir/run/checkpoints/best" ] || fail "no link to the best checkpoint"
echo "formats.sh: $(wc -l <"$dir/keys") settings"

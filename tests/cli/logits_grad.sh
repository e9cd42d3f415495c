#!/bin/sh
# `fathom logits` and `fathom grad` against the figures PyTorch computed for the reference checkpoints (tests/data/reference),
# read by od and awk alone. Limits: 2e-5 of the largest value for logits and hidden states, 1e-5 for losses, 1e-4 relative
# for gradients (norm of the difference over norm); a gradient of norm zero is exactly zero; router choices are equal.
. tests/cli/lib
data=tests/data/reference

# names FILE: "name type begin end" of every tensor, offsets counted from the data.
names() {
    n=$(od -An -tu8 -N8 "$1" | tr -d ' ')
    tail -c +9 "$1" | head -c "$n" | tr -d ' \n' | sed 's/}[,}]/}\n/g' | sed -n \
        's/^[{]*"\([^"]*\)":{"dtype":"\([^"]*\)","shape":\[[^]]*\],"data_offsets":\[\([0-9]*\),\([0-9]*\)\]}.*/\1 \2 \3 \4/p'
}
# values FILE: the data as F32, one number a line.
values() {
    n=$(od -An -tu8 -N8 "$1" | tr -d ' ')
    tail -c +$((9 + n)) "$1" | od -An -v -tf4 -w4
}
# one FILE NAME: the values of one F32 tensor.
one() {
    n=$(od -An -tu8 -N8 "$1" | tr -d ' ')
    names "$1" | awk -v name="$2" '$1 == name && $2 == "F32" { print $3, $4 }' >"$dir/where"
    read -r begin end <"$dir/where" || fail "$1: no $2"
    tail -c +$((9 + n + begin)) "$1" | od -An -v -tf4 -w4 -N$((end - begin))
}
# near OURS REFERENCE LIMIT NAME...: each tensor within LIMIT of the reference, relative to its largest value or to 1.
near() {
    ours=$1 theirs=$2 limit=$3
    shift 3
    for t in "$@"; do
        one "$ours" "$t" >"$dir/a.values"
        one "$theirs" "$t" >"$dir/b.values"
        paste "$dir/a.values" "$dir/b.values" | awk -v limit="$limit" -v name="$t" '
            NF != 2 || /nan|inf/ { print name ": element " NR - 1 ": " $0; bad = 1; exit }
            { d = $1 > $2 ? $1 - $2 : $2 - $1; if (d > worst) worst = d
              y = $2 < 0 ? -$2 : $2; if (y > most) most = y }
            END {
                if (!bad && !(worst <= limit * most)) { printf "%s: error %.3g, largest %.3g\n", name, worst, most; bad = 1 }
                exit bad || !NR
            }' || return 1
        total=$((total + 1))
    done
}
# ids FILE: the tensor input_ids [2, 96] I64 as JSON.
ids() {
    n=$(od -An -tu8 -N8 "$1" | tr -d ' ')
    begin=$(names "$1" | awk '$1 == "input_ids" { print $3 }')
    tail -c +$((9 + n + begin)) "$1" | od -An -v -td8 -w8 -N1536 | awk '
        { printf "%s%d", NR == 1 ? "[[" : NR == 97 ? "], [" : ", ", $1 } END { print "]]" }'
}
# compare OURS REFERENCE PATTERN: every F32 tensor of OURS that the reference holds and whose name matches; prints how
# many. The reference is read as a stream, ours from an array.
compare() {
    names "$1" >"$dir/a.names"
    names "$2" | sort -n -k 3 >"$dir/b.names"
    values "$1" >"$dir/a.values"
    awk -v pattern="$3" '
    function bad(what, found, limit) {
        printf "%s: %s %.3g, the limit is %.3g\n", name, what, found, limit
        wrong = 1
    }
    function judge() {
        if (name == "" || !(name in first)) return
        count++
        if (last[name] - first[name] != n) bad("elements missing", n, 0)
        else {
            if (den == 0) { if (num != 0) bad("not zero but", sqrt(num), 0) }
            else if (!(sqrt(num / den) <= 1e-4)) bad("relative error", sqrt(num / den), 1e-4)
        }
    }
    FILENAME ~ /a.names$/ { if ($2 == "F32" && $1 ~ pattern) { first[$1] = $3 / 4; last[$1] = $4 / 4 } next }
    FILENAME ~ /b.names$/ { names[++tensors] = $1; begins[tensors] = $3 / 4; next }
    FILENAME ~ /a.values$/ { a[FNR - 1] = $1; next }
    {
        if (tensor < tensors && FNR - 1 == begins[tensor + 1]) {
            judge()
            name = names[++tensor]
            skip = !(name in first)
            if (!skip) at = first[name]
            num = den = n = 0
        }
        if (skip) next
        x = a[at++]; y = $1; n++
        if (x ~ /nan|inf/) bad("not finite at", n - 1, 0)
        d = x - y
        num += d * d; den += y * y
    }
    END {
        judge()
        print count + 0
        exit wrong
    }' "$dir/a.names" "$dir/b.names" "$dir/a.values" "$dir/ref.values"
}
# ints FILE NAME: an integer tensor's values, I32 or I64.
ints() {
    n=$(od -An -tu8 -N8 "$1" | tr -d ' ')
    names "$1" | awk -v name="$2" '$1 == name { print $2, $3, $4 }' >"$dir/where"
    read -r type begin end <"$dir/where" || return 0
    w=8
    [ "$type" = I32 ] && w=4
    tail -c +$((9 + n + begin)) "$1" | od -An -v -td$w -w$w -N$((end - begin)) | tr -d ' '
}

total=0
for v in v3 v3-yarn v3-noqlora-tied-shapes v3-mtp v3-fp8 v2-lite v2; do
    ref=$data/$v/reference.safetensors
    ids "$ref" >"$dir/ids.json"
    mtp=
    [ $v = v3-mtp ] && mtp=--mtp
    list=$(names "$ref" | awk '$1 ~ /^(logits|mtp_logits|hidden\.[0-9]+)$/ { print $1 }')
    # shellcheck disable=SC2086
    ok logits --model $data/$v --ids "$dir/ids.json" --out "$dir/logits" --hidden $mtp
    # shellcheck disable=SC2086
    near "$dir/logits" "$ref" 2e-5 $list || fail "$v: logits"
    # shellcheck disable=SC2086
    ok logits --model $data/$v --ids "$dir/ids.json" --out "$dir/chunks" --hidden $mtp --chunk 7
    cmp "$dir/logits" "$dir/chunks" || fail "$v: chunks of 7 change the bytes"
    ok logits --model $data/$v --ids "$dir/ids.json" --out "$dir/absorbed" --mla absorbed
    near "$dir/absorbed" "$ref" 2e-5 logits || fail "$v, absorbed: logits"

    ok grad --model $data/$v --ids "$dir/ids.json" --out "$dir/grad"
    list=$(names "$ref" | awk '$1 ~ /loss$|^router.*(load|bias_after)$/ { print $1 }')
    # shellcheck disable=SC2086
    near "$dir/grad" "$ref" 1e-5 $list || fail "$v: losses and router"
    for t in $(names "$ref" | awk '$1 ~ /topk_sorted$/ { print $1 }'); do
        ints "$ref" "$t" >"$dir/want"
        ints "$dir/grad" "$t" >"$dir/have"
        cmp "$dir/want" "$dir/have" || fail "$v: $t: other experts were chosen"
        total=$((total + 1))
    done
    # Every gradient of one checkpoint here, of all of them in tests/test_model.c.
    if [ $v = v3-mtp ]; then
        values "$ref" >"$dir/ref.values"
        found=$(compare "$dir/grad" "$ref" '^grad') || fail "$v: $found"
        [ "$found" -ge 260 ] || fail "$v: only $found gradients compared"
        total=$((total + found))
    fi
done
echo "logits_grad.sh: $total tensors"

#!/bin/sh
# A checkpoint of random weights: made, inspected, evaluated in every form, converted; a second one into the same
# directory is refused and changes nothing.
. tests/cli/lib

m=$dir/m
ok init --preset pico --out "$m" --seed 3
ok init --preset pico --out "$dir/again" --seed 3
ok init --preset pico --out "$dir/other" --seed 4
for f in config.json generation_config.json model.safetensors; do
    cmp "$m/$f" "$dir/again/$f" || fail "the same seed gives another $f"
done
if cmp -s "$m/model.safetensors" "$dir/other/model.safetensors"; then fail "the seed changes nothing"; fi

ok inspect --model "$m" --json
for key in '"path": ' '"model_type": "deepseek_v3"' '"parameters": {"total": 521072, "active": 244592' \
    '"mtp": 154384' '"kv_bytes_per_token": ' '"tensors": \[' '"model.layers.4.eh_proj.weight"'; do
    has "$dir/out" "$key"
done
ok inspect --model "$m"
has "$dir/out" 'convert --no-mtp'
ok inspect --model "$m" --tensors
has "$dir/out" 'model.layers.3.mlp.experts.15.down_proj.weight'

# rows of 70 tokens: more than one page of the cache
awk 'BEGIN {
    for (r = 0; r < 2; r++) {
        printf "%s[", r ? ", " : "["
        for (i = 0; i < 70; i++) printf "%s%d", i ? ", " : "", (i * 37 + r * 101 + 5) % 320
        printf "]"
    }
    print "]"
}' >"$dir/ids.json"
for precision in f32 bf16; do
    for form in expanded absorbed; do
        name=$dir/$precision.$form
        ok logits --model "$m" --ids "$dir/ids.json" --out "$name" --precision $precision --mla $form --hidden --mtp
        for how in "--chunk 1" "--chunk 7" "--chunk 70" "--threads 1" "--isa avx2" "--isa scalar" "--device fence"; do
            # shellcheck disable=SC2086
            ok logits --model "$m" --ids "$dir/ids.json" --out "$name.b" --precision $precision --mla $form \
                --hidden --mtp $how
            cmp "$name" "$name.b" || fail "$precision $form: $how changes the bytes"
        done
    done
done

ok convert --model "$m" --no-mtp --out "$dir/plain"
ok inspect --model "$dir/plain" --json
has "$dir/out" '"parameters": {"total": 521072, "active": 244592'
if grep -q 'eh_proj' "$dir/out"; then fail "convert --no-mtp left the module in"; fi
ok logits --model "$dir/plain" --ids "$dir/ids.json" --out "$dir/a" --hidden
ok logits --model "$m" --ids "$dir/ids.json" --out "$dir/b" --hidden
cmp "$dir/a" "$dir/b" || fail "logits differ without the MTP module"
ok convert --model "$m" --out "$dir/shards" --shard-bytes 300000
[ -f "$dir/shards/model.safetensors.index.json" ] || fail "no index beside the shards"
ok logits --model "$dir/shards" --ids "$dir/ids.json" --out "$dir/a" --hidden
cmp "$dir/a" "$dir/b" || fail "logits differ after sharding"

listing "$m" >"$dir/before"
wrong 1 "$m: expected a new or empty directory" init --preset pico --out "$m" --seed 9
wrong 1 "$m: expected a new or empty directory" convert --model "$dir/plain" --out "$m"
listing "$m" >"$dir/after"
cmp "$dir/before" "$dir/after" || fail "a refused init changed the directory"
ok init --preset pico --out "$dir/never" --dry-run
[ ! -e "$dir/never" ] || fail "--dry-run wrote something"
# 3 x (forward - head) and 6 x (active - embedding - head), by hand: 3 x (10471296 - 2 x 256 x 4096), 6 x (4747536 - 256 x 4096)
ok plan --preset nano --json
grep -q '"forward": 10471296.*"m": 25122432, "six_n": 22193760' "$dir/out" || fail "plan: M or 6N of nano: $(head -c 400 "$dir/out")"
echo "init_inspect.sh: passed"

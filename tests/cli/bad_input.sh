#!/bin/sh
# Bad input: exit 1, one line on stderr that names the file and the thing, and nothing written.
. tests/cli/lib

m=$dir/m
ok init --preset pico --out "$m"
echo '[[1, 2, 3, 4, 5]]' >"$dir/ids.json"
seq 1 600 | sed 's/.*/Line & of a text./; 0~7a <|endoftext|>' >"$dir/text.txt"
ok tokenizer train --vocab 320 --out "$dir/tok" "$dir/text.txt"
listing "$m" >"$dir/m.before"

# --- weights -------------------------------------------------------------------------------------
# model NAME: a fresh copy of the checkpoint in $dir/NAME, path in $c.
model() {
    rm -rf "$dir/c"
    cp -r "$m" "$dir/c"
    c=$dir/c
}
le8() { # 8 bytes, little-endian
    n=$1
    for _ in 1 2 3 4 5 6 7 8; do
        # shellcheck disable=SC2059
        printf "\\$(printf %03o $((n % 256)))"
        n=$((n / 256))
    done
}
st() { # HEADER DATA_BYTES: a safetensors file with this header
    le8 ${#1}
    printf '%s' "$1"
    head -c "$2" /dev/zero
}
# refused WORDS: every command that reads the checkpoint $c refuses it in the same way.
refused() {
    wrong 1 "$1" inspect --model "$c"
    wrong 1 "$1" logits --model "$c" --ids "$dir/ids.json" --out "$dir/o"
    wrong 1 "$1" convert --model "$c" --out "$dir/o"
    [ ! -e "$dir/o" ] || fail "$1: something was written"
}
model; truncate -s 900000 "$c/model.safetensors"; refused 'model.safetensors: tensor model.*truncated'
model; truncate -s 5 "$c/model.safetensors"; refused 'model.safetensors'
model; : >"$c/model.safetensors"; refused 'model.safetensors'
model; { le8 99999999; echo '{}'; } >"$c/model.safetensors"; refused 'model.safetensors.*header'
model; { le8 9000000000000000000; echo '{}'; } >"$c/model.safetensors"; refused 'model.safetensors.*header'
model; st '{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "b": {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}}' 24 \
    >"$c/model.safetensors"; refused 'model.safetensors.*overlap'
model; st '{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}, "b": {"dtype": "F32", "shape": [4], "data_offsets": [20, 36]}}' 36 \
    >"$c/model.safetensors"; refused 'model.safetensors.*'
model; st '{"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}' 16 >"$c/model.safetensors"; refused 'model.safetensors.*a.*'
model; st '{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 16]}}' 16 >"$c/model.safetensors"
refused 'model.safetensors.*a.*'
model; st '{"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}' 16 >"$c/model.safetensors"; refused 'model.safetensors'
model; st '{"a": ' 16 >"$c/model.safetensors"; refused 'model.safetensors'
model; st "$(printf '{"a\377": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}')" 16 >"$c/model.safetensors"
refused 'model.safetensors'
refuse_model() { # what only opening notices
    wrong 1 "$1" logits --model "$c" --ids "$dir/ids.json" --out "$dir/o"
    wrong 1 "$1" convert --model "$c" --out "$dir/o"
    [ ! -e "$dir/o" ] || fail "$1: something was written"
}
edit() { LC_ALL=C sed "$1" "$c/$2" >"$dir/edited" && mv "$dir/edited" "$c/$2"; }
model; edit 's/lm_head.weight/lm_hoad.weight/' model.safetensors; refuse_model 'lm_head.weight'
model; edit 's/"lm_head.weight": {"dtype": "BF16", "shape": \[320, 64\]/"lm_head.weight": {"dtype": "BF16", "shape": [64, 320]/' model.safetensors
refuse_model 'lm_head.weight.*\[320, 64\].*\[64, 320\]'
model; edit 's/"lm_head.weight": {"dtype": "BF16", "shape": \[320, 64\]/"lm_head.weight": {"dtype": "I16",  "shape": [320, 64]/' model.safetensors
refuse_model 'lm_head.weight.*I16'
model; rm "$c/model.safetensors"; refused 'model.safetensors'
model; rm "$c/config.json"; refused 'config.json'

ok convert --model "$m" --out "$dir/shards" --shard-bytes 400000
shards() { rm -rf "$dir/c"; cp -r "$dir/shards" "$dir/c"; }
shards; rm "$c/model-00002-of-"*; refused 'model-00002-of-'
shards; edit 's/"lm_head.weight"/"lm_hoad.weight"/' model.safetensors.index.json; refuse_model 'lm_h[eo]ad.weight'
shards; edit 's/model-00001-of/..\/model-00001-of/' model.safetensors.index.json; refused 'index.json'
shards; printf '{"weight_map": {"a": "\377"}}' >"$c/model.safetensors.index.json"; refused 'index.json'
shards; printf '{"weight_map": 5}' >"$c/model.safetensors.index.json"; refused 'index.json.*weight_map'

# --- configuration -------------------------------------------------------------------------------
config() { # KEY VALUE WORDS
    model
    edit "s/\"$1\": [^,]*,/\"$1\": $2,/" config.json
    refused "config.json.*$3"
}
config hidden_size 0 'hidden_size.*found 0'
config hidden_size -64 'hidden_size.*found -64'
config hidden_size 64.5 'hidden_size'
config hidden_size '"64"' 'hidden_size'
config hidden_size 99999999999999999999 ''
config vocab_size 0 'vocab_size'
config num_hidden_layers -1 'num_hidden_layers'
config num_hidden_layers 2000000000 ''
config n_group 3 'n_group 3'
config topk_group 9 'topk_group'
config num_experts_per_tok 17 'num_experts_per_tok'
config num_attention_heads 0 'num_attention_heads'
config qk_rope_head_dim 7 'qk_rope_head_dim'
config rms_norm_eps '"x"' 'rms_norm_eps'
config model_type '"llama"' 'model_type.*llama'
config scoring_func '"tanh"' 'scoring_func'
config vocab_size 320,\"vocab_size\":\ 320 'vocab_size'
model; printf '{"model_type": "deepseek_v3\377"}' >"$c/config.json"; refused 'config.json.*byte'
model; printf '{"model_type": "deepseek_v3", ' >"$c/config.json"; refused 'config.json.*line 1'
model; head -c 100000 /dev/zero | tr '\0' '[' >"$c/config.json"; refused 'config.json'
model; edit 's/"hidden_size": 64/"hidden_size": 2000000000/; s/"vocab_size": 320/"vocab_size": 2000000000/' config.json
refused 'config.json.*\(overflow\|range\)'

wrong 1 'unknown preset "nanoo"' init --preset nanoo --out "$dir/o"
wrong 1 'hidden_siz.*hidden_size' init --preset pico --set model.hidden_siz=3 --out "$dir/o"
wrong 1 'overflow' init --preset pico --set model.vocab_size=2000000000 --set model.hidden_size=2000000000 --out "$dir/o"
wrong 1 'org/name.*hf download org/name' inspect --model org/name

# --- tokenizer -----------------------------------------------------------------------------------
tokenizer() { rm -rf "$dir/t"; cp -r "$dir/tok" "$dir/t"; c=$dir/t; }
bad_tokenizer() {
    rc=0
    echo a | "$FATHOM" tokenizer encode --model "$c" >"$dir/out" 2>"$dir/err" || rc=$?
    same "exit code of a bad tokenizer" 1 $rc
    same "lines of its message" 1 "$(wc -l <"$dir/err")"
    has "$dir/err" "tokenizer.json.*$1"
}
tokenizer; edit '/"merges": \[/a "zqx yqz",' tokenizer.json; bad_tokenizer 'merge'
tokenizer; edit '/"merges": \[/a 17,' tokenizer.json; bad_tokenizer 'merge'
tokenizer; edit 's/"vocab": {/"vocab": {"x": -5,/' tokenizer.json; bad_tokenizer ''
tokenizer; printf '{"model": {"type": "BPE\377"}}' >"$c/tokenizer.json"; bad_tokenizer 'byte'
tokenizer; printf '{"model": {"type": "Unigram"}}' >"$c/tokenizer.json"; bad_tokenizer 'Unigram'
tokenizer; : >"$c/tokenizer.json"; bad_tokenizer ''

# --- ids -----------------------------------------------------------------------------------------
ids() { # JSON WORDS
    printf '%s' "$1" >"$dir/bad.json"
    wrong 1 "$2" logits --model "$m" --ids "$dir/bad.json" --out "$dir/o"
    wrong 1 "$2" grad --model "$m" --ids "$dir/bad.json" --out "$dir/o"
    [ ! -e "$dir/o" ] || fail "ids $1: something was written"
}
ids '[[1, 320]]' 'bad.json.*320'
ids '[[1, -2]]' 'bad.json.*-2'
ids '[[1, 2], [3]]' 'bad.json.*row 1'
ids '[[1, 2.5]]' 'bad.json'
ids '[[99999999999999999999]]' 'bad.json'
ids '[]' 'bad.json'
ids '[[]]' 'bad.json'
ids '[[1' 'bad.json'
wrong 1 'nowhere.json.*No such file' logits --model "$m" --ids "$dir/nowhere.json" --out "$dir/o"

# --- text, recipes, runs -------------------------------------------------------------------------
run() { # WORDS ARGS...: pretrain refuses and leaves no directory behind
    words=$1
    shift
    rc=0
    "$FATHOM" pretrain --preset pico --steps 2 --seq 64 --set train.batch=256 --out "$dir/run" "$@" >"$dir/out" 2>"$dir/err" || rc=$?
    same "exit code of pretrain $*" 1 $rc
    tail -n 1 "$dir/err" >"$dir/last"
    has "$dir/last" "$words"
    [ ! -e "$dir/run" ] || fail "pretrain $*: $dir/run was left behind: $(ls "$dir/run")"
}
: >"$dir/empty.txt"
run 'empty.txt: no document' --text "$dir/empty.txt"
run 'nowhere.txt' --text "$dir/nowhere.txt"
printf '{"text": "a"}\n{"txt": "b"}\n' >"$dir/bad.jsonl"
run 'bad.jsonl: line 2: key "text"' --text "$dir/bad.jsonl"
printf '{"text": "a\377"}\n' >"$dir/bad.jsonl"
run 'bad.jsonl: line 1' --text "$dir/bad.jsonl"
printf '(\265/\375 not zstd' >"$dir/bad.txt.zst"
run 'bad.txt.zst' --text "$dir/bad.txt.zst"
run 'no data' 
run 'nowhere' --data "$dir/nowhere"
recipe() { printf "$1" >"$dir/r.ini"; run "$2" --text "$dir/text.txt" --recipe "$dir/r.ini"; }
recipe '[train]\nlr = 0.1\nmomentun = 1\n' 'r.ini: line 3: unknown setting train.momentun; did you mean train.momentum?'
recipe '[train]\nlr = much\n' 'r.ini: line 2: train.lr.*much'
recipe '[train]\nlr = 2\n' 'r.ini: line 2: train.lr'
recipe '[train]\nlr = 0.1\nlr = 0.2\n' 'r.ini: line 3'
recipe '[model]\nhidden_siz = 3\n' 'r.ini: line 2.*hidden_size'
recipe '[train\n' 'r.ini: line 1'
recipe '[train]\noptimizer = sgd\n' 'r.ini: line 2.*muon'
run 'did you mean train.optimizer' --text "$dir/text.txt" --set train.optimiser=adamw
run 'one stop' --text "$dir/text.txt" --minutes 1

# a directory that holds something else, or another run
run_args="--text $dir/text.txt --preset pico --seq 64 --set train.batch=256 --steps 2 --prompt"
# shellcheck disable=SC2086
ok pretrain $run_args '' --out "$dir/good"
listing "$dir/good" >"$dir/before"
wrong 1 'holds another run: .*stop.steps is 2 there, 5 here' pretrain --text "$dir/text.txt" --preset pico --seq 64 \
    --set train.batch=256 --steps 5 --out "$dir/good"
wrong 1 'holds another run' pretrain --text "$dir/text.txt" --preset pico --seq 32 --set train.batch=256 --steps 2 --out "$dir/good"
listing "$dir/good" >"$dir/after"
cmp "$dir/before" "$dir/after" || fail "a refused run changed the directory"
# shellcheck disable=SC2086
wrong 1 'config.json' pretrain $run_args '' --out "$m"
wrong 1 'no run here' resume "$m"
wrong 1 'nowhere' resume "$dir/nowhere"
wrong 1 'nowhere' report "$dir/nowhere"
wrong 1 'nowhere.*tinystories' demo --corpus "$dir/nowhere" --out "$dir/o"
listing "$m" >"$dir/m.after"
cmp "$dir/m.before" "$dir/m.after" || fail "a refused command changed the checkpoint"

# --- no room -------------------------------------------------------------------------------------
# A limit on file size stands for a full disk wherever tmpfs cannot be mounted.
(
    trap '' XFSZ
    ulimit -f 300
    wrong 1 'o.*too large\|o.*No space' init --preset pico --out "$dir/o"
    wrong 1 'o.*too large\|o.*No space' convert --model "$m" --dtype f32 --out "$dir/o"
    wrong 1 'o.*too large\|o.*No space' logits --model "$m" --ids "$dir/ids.json" --hidden --out /dev/full
    rc=0
    # shellcheck disable=SC2086
    "$FATHOM" pretrain $run_args '' --out "$dir/full" >"$dir/out" 2>"$dir/err" || rc=$?
    same "exit code of a run without room" 1 $rc
    tail -n 1 "$dir/err" >"$dir/last"
    has "$dir/last" 'checkpoint of step 1 was not written'
)
left=$(find "$dir" -name '*.tmp-*')
[ -z "$left" ] || fail "left half-written: $left"
[ -z "$(ls "$dir/full/checkpoints")" ] || fail "a checkpoint in spite of the full disk"
# shellcheck disable=SC2086
ok pretrain $run_args '' --out "$dir/full"
cmp "$dir/full/checkpoints/2/model.safetensors" "$dir/good/checkpoints/2/model.safetensors" ||
    fail "the run after the full disk differs"
if mkdir "$dir/small" && mount -t tmpfs -o size=1m none "$dir/small" 2>/dev/null; then
    wrong 1 'No space left' init --preset pico --out "$dir/small/o"
    left=$(ls -A "$dir/small")
    umount "$dir/small"
    [ -z "$left" ] || fail "left on a full disk: $left"
fi
[ ! -e "$dir/o" ] || fail "$dir/o was left behind"
echo "bad_input.sh: passed"

#!/bin/sh
# The same training run at the scalar level on one thread, at AVX2 on two and at the highest level on three writes the
# same bytes: weights and optimizer, for every optimizer, in bf16 and f32, with the MTP module, gradient clipping,
# averages of weights and (SOAP) new bases in the run. A level that the processor lacks stands for the next one below.
. tests/cli/lib

# Text of words in changing order, so that experts are chosen unevenly.
awk 'BEGIN {
    for (i = 0; i < 1500; i++) {
        for (k = 0; k < 4 + i % 11; k++) printf "%s%d ", substr("rivermountainsandforest", 1 + (i * 7 + k * 5) % 17, 3 + (i + k) % 4), (i * k) % 9
        printf "\n<|endoftext|>\n"
    }
}' >"$dir/text.txt"
ok tokenizer train --vocab 320 --out "$dir/tok" "$dir/text.txt"
ok data --tokenizer "$dir/tok" --out "$dir/data" "$dir/text.txt"

sums() { # OPTIMIZER PRECISION ISA THREADS
    ok pretrain --data "$dir/data" --preset pico --steps 2 --seq 48 --set train.batch=96 --set train.micro=48 \
        --set "train.optimizer=$1" --set train.soap_every=1 --set train.soap_side=64 --set train.ema=0.9 \
        --set train.grokfast_lamb=1 --set train.evals=1 --set train.eval_tokens=64 --precision "$2" --isa "$3" \
        --threads "$4" --prompt "" --out "$dir/run"
    (cd "$dir/run" && find . -name '*.safetensors' | sort | xargs cksum) >"$dir/$3.sums"
    rm -rf "$dir/run"
}

for optimizer in adamw muon soap ademamix; do
    for precision in bf16 f32; do
        sums $optimizer $precision scalar 1
        [ "$(wc -l <"$dir/scalar.sums")" -ge 2 ] || fail "$optimizer, $precision: no weights and optimizer found"
        for how in "avx2 2" "amx 3"; do
            # shellcheck disable=SC2086
            sums $optimizer $precision $how
            cmp "$dir/scalar.sums" "$dir/${how% *}.sums" || fail "$optimizer, $precision, $how threads: other bytes than at scalar"
        done
    done
done
echo "levels.sh: passed"

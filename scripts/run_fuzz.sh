#!/bin/sh
# Drives every fuzz target for a few seconds from its seeds with a fixed random seed.
#   run_fuzz.sh SECONDS PROGRAM...    the seeds of fuzz_NAME lie in fuzz/corpus/NAME
seconds=$1
shift
passed=0
failed=0
for f in "$@"; do
    name=$(basename "$f" | sed 's/^fuzz_//')
    if timeout $((seconds * 4 + 60)) "$f" "$seconds" "fuzz/corpus/$name"; then
        passed=$((passed + 1))
    else
        echo "FAIL  fuzz $name"
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]

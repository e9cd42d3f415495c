#!/bin/sh
# Runs test programs and scripts one after the other, each with a time limit, and ends with
# "N passed, N failed". A cmocka program counts by its tests, a script as one.
#   run_tests.sh LIMIT_SECONDS FILE...      exit 1 when anything failed
limit=$1
shift
passed=0
failed=0
log=$(mktemp) || exit 1
trap 'rm -f "$log"' EXIT INT TERM
for t in "$@"; do
    start=$(date +%s)
    timeout -k 5 "$limit" "$t" >"$log" 2>&1
    rc=$?
    took=$(($(date +%s) - start))
    p=$(grep -c '^\[       OK \]' "$log")
    f=$(grep -c '^\[  FAILED  \] [a-zA-Z0-9_]*$' "$log")
    if [ "$p" -eq 0 ] && [ "$f" -eq 0 ]; then
        if [ "$rc" -eq 0 ]; then p=1; else f=1; fi
    elif [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
    fi
    passed=$((passed + p))
    failed=$((failed + f))
    if [ "$rc" -eq 0 ]; then
        printf 'ok    %-40s %4d tests %4d s\n' "$(basename "$t")" "$p" "$took"
    else
        printf 'FAIL  %-40s %4d of %d (exit %d, %d s)\n' "$(basename "$t")" "$f" $((p + f)) "$rc" "$took"
        tail -n 40 "$log"
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]

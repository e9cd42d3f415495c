#!/bin/sh
# Runs test programs and scripts, each with a time limit, as many at once as there are processors, and
# ends with "N passed, N failed" (and ", N skipped" where tests were). A cmocka program counts by its
# tests, a script as one.
#   run_tests.sh LIMIT_SECONDS FILE...      exit 1 when anything failed
#   run_tests.sh --one LIMIT_SECONDS DIR FILE   one of them: its counts go to DIR
if [ "$1" = --one ]; then
    limit=$2
    dir=$3
    t=$4
    name=$(basename "$t")
    log=$dir/$name.log
    start=$(date +%s)
    timeout -k 5 "$limit" "$t" >"$log" 2>&1
    rc=$?
    took=$(($(date +%s) - start))
    p=$(grep -c '^\[       OK \]' "$log")
    f=$(grep '^\[  FAILED  \] [a-zA-Z0-9_]*$' "$log" | sort -u | grep -c .) # the end repeats them
    skipped=$(grep '^\[  SKIPPED \] [a-zA-Z0-9_]*$' "$log" | sort -u | sed 's/.*\] //')
    s=$(printf '%s' "$skipped" | grep -c .)
    if [ "$p" -eq 0 ] && [ "$f" -eq 0 ] && [ "$s" -eq 0 ]; then
        if [ "$rc" -eq 0 ]; then p=1; else f=1; fi
    elif [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then
        f=1
    fi
    echo "$p $f $s" >"$dir/$name.count"
    if [ "$rc" -eq 0 ]; then
        printf 'ok    %-40s %4d tests %4d s%s\n' "$name" "$p" "$took" \
            "${skipped:+; skipped: $(echo $skipped)}"
    else
        printf 'FAIL  %-40s %4d of %d (exit %d, %d s)\n' "$name" "$f" $((p + f)) "$rc" "$took"
        tail -n 40 "$log"
    fi >"$dir/$name.out"
    cat "$dir/$name.out"
    exit 0
fi
limit=$1
shift
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT INT TERM
jobs=${FATHOM_TEST_JOBS:-$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1)}
[ "$jobs" -gt 4 ] && jobs=4
[ $# -gt 0 ] && printf '%s\n' "$@" | xargs -P "$jobs" -n 1 sh "$0" --one "$limit" "$dir"
cat "$dir"/*.count 2>/dev/null | awk -v want=$# '
{ p += $1; f += $2; s += $3 }
END {
    if (NR < want) f += want - NR
    printf "%d passed, %d failed%s\n", p, f, s ? ", " s " skipped" : ""
    exit f > 0
}'

#!/bin/sh
# `make test`: everything, in one list with one last line "N passed, N failed".
#   test_all.sh MAKE
cd "$(dirname "$0")/.." || exit 1
make=${1:-make}
build=build
out=$(mktemp -d) || exit 1
trap 'rm -rf "$out"' EXIT INT TERM
passed=0
failed=0
skipped=0
start=$(date +%s)

# step NAME COMMAND...: counts what the command's last "N passed, N failed" line says, else itself as one.
step() {
    name=$1
    shift
    printf -- '--- %s\n' "$name"
    "$@" >"$out/log" 2>&1
    rc=$?
    line=$(grep -E '^[0-9]+ passed, [0-9]+ failed(, [0-9]+ skipped)?$' "$out/log" | tail -n 1)
    s=0
    if [ -n "$line" ]; then
        p=${line%% passed*}
        f=${line#*, }
        f=${f%% failed*}
        case "$line" in *skipped)
            s=${line##*, }
            s=${s%% skipped}
            ;;
        esac
        grep -v -E '^(gcc|cc|ar|make)' "$out/log" | grep -v "$line"
        [ "$rc" -ne 0 ] && [ "$f" -eq 0 ] && f=1
    elif [ "$rc" -eq 0 ]; then
        p=1
        f=0
        tail -n 1 "$out/log"
    else
        p=0
        f=1
        tail -n 60 "$out/log"
    fi
    passed=$((passed + p))
    failed=$((failed + f))
    skipped=$((skipped + s))
    echo "    $name: $p passed, $f failed, $(($(date +%s) - start)) s so far"
}

step "build without warnings" "$make" -s -j2 all
step "include graph" sh scripts/check_includes.sh
step "style" sh scripts/check_style.sh
step "public headers" sh scripts/check_headers.sh
step "unit tests" "$make" -s check-run
step "command line" "$make" -s e2e
step "fuzz" "$make" -s fuzz FUZZ_SECONDS=2
step "address and undefined-behaviour sanitizers" "$make" -s check-san
step "thread sanitizer" "$make" -s check-tsan
if command -v nvcc >/dev/null 2>&1 && ls src/ops/cuda/*.cu >/dev/null 2>&1; then
    step "CUDA compiles" "$make" -s cuda
fi
rm -rf "$out"
[ $skipped -gt 0 ] && echo "$skipped tests skipped: the processor lacks what they need (each names it above)"
echo "$passed passed, $failed failed"
[ $failed -eq 0 ]

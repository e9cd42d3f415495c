#!/bin/sh
# Measurements that every claim of speed refers to, into bench/results as JSON lines with the command.
#   bench.sh FATHOM
fathom=$1
out=bench/results/$(date +%Y-%m-%d)-$(uname -m).jsonl
mkdir -p bench/results
for what in "machine" "train --preset nano" "train --preset nano --dense" "train --preset nano --optimizer muon --rows 8"; do
    printf '{"command": "fathom bench %s --json", "date": "%s"}\n' "$what" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" >>"$out"
    # shellcheck disable=SC2086
    "$fathom" bench $what --json | tee -a "$out" || exit 1
done
echo "written to $out"

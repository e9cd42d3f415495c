#!/bin/sh
# The include graph: a module includes only what its row allows (docs/architecture.md). Public headers
# (include/fathom) may be included by every module. Also the line budget of the core. Exit 1 on a breach.
cd "$(dirname "$0")/.." || exit 1
find src include -name '*.[ch]' -o -name '*.inc' -o -name '*.cu' -o -name '*.cuh' | sort | xargs awk '
BEGIN {
    allow["base"] = "base"
    allow["tensor"] = "tensor base"
    allow["io"] = "io tensor base"
    allow["text"] = "text io tensor base"
    allow["ops"] = "ops tensor base"
    allow["comm"] = "comm tensor base"
    allow["model"] = "model ops comm io tensor base"
    allow["infer"] = "infer model text ops io tensor base"
    allow["train"] = "train model text ops comm io tensor base"
    allow["bench"] = "bench infer train model ops io tensor base"
    allow["post"] = "post train infer model text io tensor base"
    allow["eval"] = "eval infer model text io tensor base"
    allow["scale"] = "scale model io tensor base"
    allow["serve"] = "serve infer text io base"
    allow["cli"] = "cli"
    bad = 0
}
/^[ \t]*#[ \t]*include[ \t]*"/ {
    split($0, q, "\""); inc = q[2]
    n = split(FILENAME, p, "/")
    if (p[1] == "include") {
        if (inc !~ /^fathom\//) { print FILENAME ":" FNR ": a public header includes " inc; bad = 1 }
        next
    }
    mod = p[2]
    if (!(mod in allow)) { print FILENAME ": unknown module " mod; bad = 1; next }
    if (inc ~ /^fathom\// || inc == "fathom.h") next
    if (split(inc, w, "/") < 2) next    # a file beside this one
    if (index(" " allow[mod] " ", " " w[1] " ") == 0) {
        print FILENAME ":" FNR ": module " mod " may not include " inc; bad = 1
    }
}
{ p0 = FILENAME; if (p0 ~ /^src\/(model|train|infer|ops\/ref)\//) core++ }
END {
    if (core > 12000) { print "core (model, ops/ref, train, infer) has " core " lines; the budget is 12000"; bad = 1 }
    if (!bad) print "include graph: clean; core " core " of 12000 lines"
    exit bad
}'

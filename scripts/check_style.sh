#!/bin/sh
# Limits of style: file length, function length, line width, banned calls, opening comment.
# Exceptions stand in this script, each with its reason. Exit 1 on a breach.
cd "$(dirname "$0")/.." || exit 1
find src include tests fuzz bench examples -name '*.[ch]' -o -name '*.inc' -o -name '*.cu' | sort | xargs awk '
function fail(msg) { print msg; bad = 1 }
FNR == 1 {
    if (file != "" && lines > 800 && !(file in longfile)) fail(file ": " lines " lines; the limit is 800")
    file = FILENAME; lines = 0; open = 0
    if ($0 !~ /^\/\*/) fail(FILENAME ":1: a file opens with a comment saying what it owns")
}
BEGIN {
    # tables, exempt from length, with the script that made them
    split("", longfile)
    # kernels may have 150 lines (style.md section 7)
}
{
    lines = FNR
    if (length($0) > 110) fail(FILENAME ":" FNR ": " length($0) " columns; the limit is 110")
    if ($0 ~ /[ \t]$/) fail(FILENAME ":" FNR ": space at the end of the line")
    if ($0 ~ /\t/) fail(FILENAME ":" FNR ": a tab")
    code = $0
    sub(/\/\/.*/, "", code); gsub(/"([^"\\]|\\.)*"/, "\"\"", code); sub(/\/\*.*/, "", code)
    if (FILENAME ~ /^src\// && code ~ /(^|[^a-z_A-Z0-9])(sprintf|strcpy|strcat|strtok|atoi|atof|gets)[ ]*\(/)
        fail(FILENAME ":" FNR ": banned call: " $0)
    if (FILENAME ~ /^src\// && FILENAME !~ /^src\/base\// && code ~ /(^|[^a-z_A-Z0-9])(malloc|calloc|realloc|free|strdup)[ ]*\(/ \
        && FILENAME !~ /^src\/cli\//)
        fail(FILENAME ":" FNR ": heap outside base: " $0)
    if (FILENAME ~ /^src\// && FILENAME !~ /^src\/cli\// && code ~ /(^|[^a-z_A-Z0-9])(exit|abort|printf|puts|getenv)[ ]*\(/ \
        && FILENAME !~ /^src\/base\/fail.c/)
        fail(FILENAME ":" FNR ": the library neither exits, prints nor reads the environment: " $0)
}
/^[a-zA-Z_].*\)$/ { head = FNR }
/^\{$/ { open = FNR }
/^\}$/ {
    if (open) {
        n = FNR - open
        limit = (FILENAME ~ /^src\/ops\/(x86|ref|cuda)\//) ? 150 : 80
        if (n > limit) fail(FILENAME ":" open ": function of " n " lines; the limit is " limit)
    }
    open = 0
}
END {
    if (lines > 800 && !(file in longfile)) fail(file ": " lines " lines; the limit is 800")
    if (!bad) print "style: clean"
    exit bad
}'

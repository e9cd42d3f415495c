#!/bin/sh
# Every command explains itself; wrong commands and options end with 2 and name the nearest right one.
. tests/cli/lib

ok --help
cp "$dir/out" "$dir/help"
commands=$(sed -n 's/^  \([a-z][a-z-]*\) .*/\1/p' "$dir/help")
[ "$(echo "$commands" | wc -l)" -ge 15 ] || fail "commands in the help: $commands"
for c in $commands; do
    ok "$c" --help
    has "$dir/out" "^usage: fathom $c"
    [ ! -s "$dir/err" ] || fail "$c --help writes to stderr: $(cat "$dir/err")"
    cp "$dir/out" "$dir/one"
    ok help "$c"
    cmp "$dir/one" "$dir/out" || fail "help $c and $c --help differ"
    wrong 2 "unknown option --no-such-option" "$c" --no-such-option
    if grep -q fence "$dir/one"; then fail "$c --help names a test device"; fi
done
ok --version
has "$dir/out" '^fathom [0-9]*\.[0-9]*\.[0-9]*$'

rc=0
"$FATHOM" >"$dir/out" 2>"$dir/err" || rc=$?
same "exit code without arguments" 2 $rc
has "$dir/err" '^usage: fathom COMMAND'
[ ! -s "$dir/out" ] || fail "usage went to stdout"

wrong 2 'unknown command "inspekt".*"inspect"' inspekt
wrong 2 'unknown command "pretrian".*"pretrain"' pretrian
wrong 2 'unknown command "xyzzy"' xyzzy
wrong 2 'unknown command' help xyzzy
wrong 2 'unknown option --modle.*--model' inspect --modle x
wrong 2 'unknown option --precison.*--precision' logits --precison f32
wrong 2 'unknown option --temprature.*--temperature' generate --temprature 1
wrong 2 'unknown option --minute.*--minutes' pretrain --minute 1
wrong 2 '--model' inspect
wrong 2 '--preset' init --out x
wrong 2 '--out' init --preset pico
wrong 2 '--steps' pretrain --steps
wrong 2 '--steps' pretrain --steps ten
wrong 2 '--precision\|precision' logits --model m --ids i --out o --precision f16
wrong 2 'directory' resume
echo "help.sh: $(echo "$commands" | wc -l) commands"

#!/bin/sh
# make install into an empty prefix, both examples built against it through pkg-config (static and shared) and run,
# make uninstall leaves nothing. BUILD is where the program lies.
. tests/cli/lib
build=$(dirname "$FATHOM")
build=${build#"$PWD"/} # as make was called: dependency files hold the path
make=${MAKE:-make}
cc=${CC:-gcc}
prefix=$dir/prefix
unset MAKEFLAGS MFLAGS || true

$make -s BUILD="$build" PREFIX="$prefix" install >"$dir/log" 2>&1 || fail "make install: $(tail -n 20 "$dir/log")"
for f in bin/fathom lib/libfathom.a lib/libfathom.so lib/pkgconfig/fathom.pc include/fathom.h include/fathom/model.h \
    share/fathom/README.md; do
    [ -e "$prefix/$f" ] || fail "$f was not installed"
done
cmp "$FATHOM" "$prefix/bin/fathom" || fail "another program was installed"
same "version" "$("$FATHOM" --version | cut -d' ' -f2)" "$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --modversion fathom)"

printf 'The fox saw a crow. The crow had some cheese.\n' >"$dir/text.txt"
"$prefix/bin/fathom" tokenizer train --vocab 320 --out "$dir/tok" "$dir/text.txt" >/dev/null
"$prefix/bin/fathom" init --preset pico --tokenizer "$dir/tok" --out "$dir/m" >/dev/null
pc() { PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config "$@" fathom; }
for e in generate score; do
    # shellcheck disable=SC2046
    $cc -std=c11 -Wall -Wextra -Werror examples/$e.c $(pc --cflags --libs) -lm -o "$dir/$e.shared" 2>"$dir/log" ||
        fail "$e against the shared library: $(cat "$dir/log")"
    # shellcheck disable=SC2046
    $cc -std=c11 -Wall -Wextra -Werror examples/$e.c $(pc --cflags) "$prefix/lib/libfathom.a" \
        $(pc --static --libs-only-l | sed 's/-lfathom//') -o "$dir/$e.static" 2>"$dir/log" ||
        fail "$e against the static library: $(cat "$dir/log")"
done
cp "$dir/text.txt" "$dir/in"
for how in shared static; do
    LD_LIBRARY_PATH=$prefix/lib "$dir/score.$how" "$dir/m" <"$dir/in" >"$dir/score.$how.out" || fail "score ($how)"
    has "$dir/score.$how.out" 'bits per byte [0-9]'
    LD_LIBRARY_PATH=$prefix/lib "$dir/generate.$how" "$dir/m" 'The fox' 12 >"$dir/generate.$how.out" || fail "generate ($how)"
done
cmp "$dir/score.shared.out" "$dir/score.static.out" || fail "static and shared score differ"
cmp "$dir/generate.shared.out" "$dir/generate.static.out" || fail "static and shared text differ"
rc=0
"$dir/score.static" "$dir/nowhere" <"$dir/in" >"$dir/out" 2>"$dir/err" || rc=$?
same "exit code of score on a missing model" 1 $rc
has "$dir/err" nowhere

# the public headers alone, as C and C++
echo '#include <fathom.h>
int main(void) { return 0; }' >"$dir/use.c"
# shellcheck disable=SC2046
$cc -std=c11 -Wall -Wextra -Werror -fsyntax-only $(pc --cflags) "$dir/use.c" || fail "fathom.h as C11"
if command -v g++ >/dev/null 2>&1; then
    cp "$dir/use.c" "$dir/use.cc"
    # shellcheck disable=SC2046
    g++ -std=c++17 -Wall -Wextra -Werror -fsyntax-only $(pc --cflags) "$dir/use.cc" || fail "fathom.h as C++17"
fi

$make -s BUILD="$build" PREFIX="$prefix" uninstall >"$dir/log" 2>&1 || fail "make uninstall: $(cat "$dir/log")"
left=$(find "$prefix" ! -type d)
[ -z "$left" ] || fail "uninstall left: $left"

# DESTDIR: packaging below another root
$make -s BUILD="$build" PREFIX=/usr DESTDIR="$dir/dest" install >"$dir/log" 2>&1 || fail "make install DESTDIR: $(cat "$dir/log")"
has "$dir/dest/usr/lib/pkgconfig/fathom.pc" '^prefix=/usr$'
$make -s BUILD="$build" PREFIX=/usr DESTDIR="$dir/dest" uninstall >/dev/null
left=$(find "$dir/dest" ! -type d)
[ -z "$left" ] || fail "uninstall with DESTDIR left: $left"
echo "install.sh: passed"

#!/bin/sh
# Installs what the build and tests need and the machine lacks. As root at once; otherwise after a yes,
# through sudo; on systems without apt it prints the names and fails only if something required is missing.
#   deps.sh build    compiler, make and the libraries
#   deps.sh test     the same, the test library and gnuplot
want_build="gcc make pkg-config libjansson-dev libpcre2-dev libzstd-dev zlib1g-dev libinih-dev libedit-dev zstd"
want_build="$want_build libnlopt-dev libsqlite3-dev"
want_test="$want_build libcmocka-dev gnuplot-nox"
case "$1" in
test) want=$want_test ;;
*) want=$want_build ;;
esac

have() {
    case "$1" in
    gcc | make | zstd) command -v "$1" >/dev/null 2>&1 ;;
    pkg-config) command -v pkg-config >/dev/null 2>&1 ;;
    libjansson-dev) header jansson.h ;;
    libpcre2-dev) header pcre2.h ;;
    libzstd-dev) header zstd.h ;;
    zlib1g-dev) header zlib.h ;;
    libinih-dev) header ini.h ;;
    libedit-dev) header histedit.h || header editline/readline.h ;;
    libcmocka-dev) header cmocka.h ;;
    libnlopt-dev) header nlopt.h ;;
    libsqlite3-dev) header sqlite3.h ;;
    gnuplot-nox) command -v gnuplot >/dev/null 2>&1 ;;
    esac
}
header() {
    for d in /usr/include /usr/local/include /usr/include/"$(gcc -dumpmachine 2>/dev/null)"; do
        [ -f "$d/$1" ] && return 0
    done
    return 1
}

missing=
for p in $want; do
    have "$p" || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
echo "Packages missing:$missing"
if ! command -v apt-get >/dev/null 2>&1; then
    echo "Install them with this system's package manager (the names above are Debian's), then run make again." >&2
    exit 1
fi
run=
if [ "$(id -u)" != 0 ]; then
    if ! command -v sudo >/dev/null 2>&1; then
        echo "Not root and no sudo here. As root: apt-get install$missing" >&2
        exit 1
    fi
    printf 'Install them now with sudo apt-get? [y/N] '
    read -r answer || answer=
    case "$answer" in
    y | Y | yes) run=sudo ;;
    *)
        echo "Not installed. By hand: sudo apt-get install$missing" >&2
        exit 1
        ;;
    esac
fi
# shellcheck disable=SC2086
if ! $run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null 2>&1; then
    $run apt-get update -qq || exit 1
    $run env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing >/dev/null || exit 1
fi

#!/bin/sh
# Every public header compiles alone as C11 and, where a C++ compiler exists, as C++17.
#   check_headers.sh CC
cd "$(dirname "$0")/.." || exit 1
cc=${1:-gcc}
bad=0
n=0
for h in include/fathom.h include/fathom/*.h; do
    [ -f "$h" ] || continue
    n=$((n + 1))
    $cc -std=c11 -Wall -Wextra -Werror -Iinclude -fsyntax-only -x c "$h" || bad=1
    if command -v g++ >/dev/null 2>&1; then
        g++ -std=c++17 -Wall -Wextra -Werror -Iinclude -fsyntax-only -x c++ "$h" || bad=1
    fi
done
[ $bad -eq 0 ] && echo "public headers: $n compile alone"
exit $bad

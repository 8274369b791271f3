#!/usr/bin/env bash
# The curve engines under valgrind: no read or write out of bounds, nothing decided by memory that was never set.
# Installs valgrind on Debian; where it cannot be had, says so and leaves it at that.
#
# valgrind shows programs a processor without AVX-512, so this covers the engines up to avx2.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! command -v valgrind >/dev/null; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    if ! command -v apt-get >/dev/null \
        || ! $sudo apt-get update -q \
        || ! $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends valgrind; then
        echo "SKIPPED: the curve engines were not run under valgrind, which is not installed and could not be" >&2
        exit 0
    fi
fi

test=kernel_differential
binary=$(cargo test --no-run --test "$test" --message-format=json-render-diagnostics |
    sed -n 's/.*"executable":"\([^"]*'"$test"'-[^"]*\)".*/\1/p')

# On every engine a full group of vectors and a part of one.
log=$(mktemp)
trap 'rm -f "$log"' EXIT
SPINDEX_DIFFERENTIAL_POINTS=${SPINDEX_DIFFERENTIAL_POINTS:-20} \
    valgrind --error-exitcode=1 --quiet "$binary" --nocapture 2>&1 | tee "$log"
if grep -qsw avx2 /proc/cpuinfo && ! grep -q '^avx2: ' "$log"; then
    echo "the engine avx2 did not run under valgrind" >&2
    exit 1
fi

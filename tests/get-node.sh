#!/usr/bin/env bash
# Prints the path of a Bitcoin Core daemon for the tests; builds one, once per machine, where there is none.
#
# BITCOIND_EXE, if set, names an installed daemon (30 or newer, for /rest/spenttxouts) and wins. Otherwise the
# source comes from the registry package libbitcoinkernel-sys, which carries all of Bitcoin Core, and the result
# is kept in the user's cache directory, keyed by the package's version.
set -euo pipefail

version=0.0.21
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spindex/bitcoind-$version
say() { printf 'get-node: %s\n' "$*" >&2; }

if [ -n "${BITCOIND_EXE:-}" ]; then
    [ -x "$BITCOIND_EXE" ] || { say "BITCOIND_EXE=$BITCOIND_EXE is not an executable file"; exit 1; }
    printf '%s\n' "$BITCOIND_EXE"
    exit 0
fi
if [ -x "$cache/bitcoind" ]; then
    printf '%s\n' "$cache/bitcoind"
    exit 0
fi

# One builder at a time: tests and people may call this together.
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
if [ -x "$cache/bitcoind" ]; then
    printf '%s\n' "$cache/bitcoind"
    exit 0
fi

needed=(cmake ninja-build g++ libboost-dev libevent-dev libzmq3-dev pkg-config)
missing=()
for package in "${needed[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    say "installing ${missing[*]}"
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -q >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >&2
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/spindex-node.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/fetch/src"
: >"$work/fetch/src/lib.rs"
cat >"$work/fetch/Cargo.toml" <<EOF
[package]
name = "fetch"
version = "0.0.0"
edition = "2021"

[dependencies]
libbitcoinkernel-sys = "=$version"
EOF
say "fetching the source of Bitcoin Core (libbitcoinkernel-sys $version)"
manifest=$(cargo metadata --format-version 1 --manifest-path "$work/fetch/Cargo.toml" |
    grep -o '"manifest_path":"[^"]*libbitcoinkernel-sys-'"$version"'/Cargo.toml"' | head -n 1 | cut -d'"' -f4)
[ -n "$manifest" ] || { say "cargo did not unpack libbitcoinkernel-sys $version"; exit 1; }
cp -r "$(dirname "$manifest")/bitcoin" "$work/source"

say "building bitcoind, once on this machine (8 minutes on two cores); log: $cache/build.log"
{
    cmake -S "$work/source" -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release \
        -DBUILD_DAEMON=ON -DBUILD_CLI=ON -DBUILD_GUI=OFF -DBUILD_TESTS=OFF -DBUILD_BENCH=OFF \
        -DBUILD_TX=OFF -DBUILD_UTIL=OFF -DBUILD_WALLET_TOOL=OFF -DBUILD_FUZZ_BINARY=OFF \
        -DENABLE_WALLET=OFF -DENABLE_EXTERNAL_SIGNER=OFF -DENABLE_IPC=OFF -DWITH_ZMQ=ON &&
        cmake --build "$work/build" --target bitcoind bitcoin-cli
} >"$cache/build.log" 2>&1 || {
    say "the build failed; the end of $cache/build.log:"
    tail -n 30 "$cache/build.log" >&2
    exit 1
}
install -m 755 "$work/build/bin/bitcoin-cli" "$cache/bitcoin-cli"
install -m 755 "$work/build/bin/bitcoind" "$cache/bitcoind.new"
mv "$cache/bitcoind.new" "$cache/bitcoind" # last, and atomic: its presence means the build is complete
printf '%s\n' "$cache/bitcoind"

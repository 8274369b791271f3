#!/usr/bin/env bash
# Everything that has to pass: format, lints, docs, all tests, the curve engines under valgrind and in release, the demo. Installs what is missing on Debian, and from PyPI.
set -euo pipefail
cd "$(dirname "$0")/.."

# Some dependencies build C code.
if ! command -v cc >/dev/null; then
    sudo=
    [ "$(id -u)" = 0 ] || sudo=sudo
    $sudo apt-get update -q
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends gcc libc6-dev
fi
for component in rustfmt clippy; do
    cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
done

# The node is built (once per machine) before the tests ask for it, so that its progress is seen.
BITCOIND_EXE=$(tests/get-node.sh)
export BITCOIND_EXE
# So are the programs from PyPI; without them their tests say SKIPPED.
for program in s3 schemathesis; do
    tests/get-from-pypi.sh "$program" >/dev/null || [ $? = 75 ]
done

cargo fmt --check
cargo clippy --all-targets -- -D warnings
# A program that wants one layer gets that one.
for feature in scan client index server; do
    cargo clippy --lib --no-default-features --features "$feature" -- -D warnings
done
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
cargo test
tests/valgrind.sh
tests/release.sh

#!/usr/bin/env bash
# What is shipped: every curve engine of this processor in a release build against libsecp256k1, on 20,000 points each and
# in several batches of every operation; and the demo.
#
# Both come from one build. After it `cargo run` would compile and link most of it once more, because the tests' own
# dependencies ask for more features of those that the program has too.
set -euo pipefail
cd "$(dirname "$0")/.."

test=kernel_differential
built=$(cargo test --release --no-run --test "$test" --message-format=json-render-diagnostics)
executable() {
    sed -n 's/.*"executable":"\([^"]*\/'"$1"'\)".*/\1/p' <<<"$built"
}
"$(executable "$test-[^\"/]*")" --nocapture
"$(executable spindex)" demo --once --json

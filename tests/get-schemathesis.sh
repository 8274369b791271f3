#!/usr/bin/env bash
# Prints the path of schemathesis, which holds a server against its OpenAPI document; installs it from PyPI, once per machine.
#
# SCHEMATHESIS_EXE, if set, names an installed one and wins. Otherwise it goes into a virtual environment in the user's cache
# directory, keyed by its version. Ends with 3, and says why on stderr, where that cannot be had: no Python, no PyPI.
set -euo pipefail

version=4.32.5
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spindex/schemathesis-$version
say() { printf 'get-schemathesis: %s\n' "$*" >&2; }

if [ -n "${SCHEMATHESIS_EXE:-}" ]; then
    [ -x "$SCHEMATHESIS_EXE" ] || { say "SCHEMATHESIS_EXE=$SCHEMATHESIS_EXE is not an executable file"; exit 1; }
    printf '%s\n' "$SCHEMATHESIS_EXE"
    exit 0
fi

# One at a time: tests and people may call this together.
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9
# Written last: its presence means that all is there.
if [ -e "$cache/complete" ]; then
    printf '%s\n' "$cache/bin/st"
    exit 0
fi
command -v python3 >/dev/null || { say "there is no python3"; exit 3; }
say "installing schemathesis $version, once on this machine; log: $cache/install.log"
{
    python3 -m venv "$cache" &&
        "$cache/bin/pip" install --timeout 15 --retries 1 "schemathesis==$version"
} >"$cache/install.log" 2>&1 || {
    say "it could not be installed: $(grep -v '^$' "$cache/install.log" | tail -n 1)"
    exit 3
}
touch "$cache/complete"
printf '%s\n' "$cache/bin/st"

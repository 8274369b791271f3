#!/usr/bin/env bash
# Prints the path of a server that speaks S3, for the tests: moto, from PyPI, installed once per machine into the user's cache directory.
#
# S3_EXE, if set, names one and wins: it is started with -H ADDRESS -p PORT. Exit status 75 if there is none to be had: no Python,
# or PyPI cannot be reached.
set -euo pipefail

version=5.2.5
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spindex/moto-$version
say() { printf 'get-s3: %s\n' "$*" >&2; }

if [ -n "${S3_EXE:-}" ]; then
    [ -x "$S3_EXE" ] || { say "S3_EXE=$S3_EXE is not an executable file"; exit 1; }
    printf '%s\n' "$S3_EXE"
    exit 0
fi
if [ -e "$cache/complete" ]; then
    printf '%s\n' "$cache/bin/moto_server"
    exit 0
fi
command -v python3 >/dev/null || { say "there is no python3"; exit 75; }

# One installer at a time: tests and people may call this together.
mkdir -p "$(dirname "$cache")"
exec 9>"$cache.lock"
flock 9
if [ ! -e "$cache/complete" ]; then
    say "installing moto $version into $cache"
    rm -rf "$cache"
    python3 -m venv "$cache" >&2 || { say "python3 cannot make an environment"; exit 75; }
    # Of what moto can do, S3 alone, and the server.
    "$cache/bin/pip" install -q --disable-pip-version-check "moto[s3]==$version" flask flask-cors >&2 ||
        { say "PyPI does not give moto $version"; exit 75; }
    touch "$cache/complete" # last: its presence means that all of it is there
fi
printf '%s\n' "$cache/bin/moto_server"

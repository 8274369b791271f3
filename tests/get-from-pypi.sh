#!/usr/bin/env bash
# Prints the path of a program that a test needs, and installs it from PyPI once per machine, into the user's cache directory:
#
#   get-from-pypi.sh s3              moto, a server that speaks S3; started with -H ADDRESS -p PORT
#   get-from-pypi.sh schemathesis    holds a server against its OpenAPI document
#
# S3_EXE or SCHEMATHESIS_EXE, if set, names one and wins. Ends with 75, and says why on stderr, where there is none to be had: no
# Python, or no PyPI.
set -euo pipefail

program=${1:-}
say() { printf 'get-from-pypi: %s\n' "$*" >&2; }
case $program in
    s3)
        exe=${S3_EXE:-}
        name=moto-5.2.5 binary=moto_server
        # Of what moto can do, S3 alone, and the server.
        packages=("moto[s3]==5.2.5" flask flask-cors)
        ;;
    schemathesis)
        exe=${SCHEMATHESIS_EXE:-}
        name=schemathesis-4.32.5 binary=st
        packages=("schemathesis==4.32.5")
        ;;
    *)
        say "no program \"$program\": s3 or schemathesis"
        exit 2
        ;;
esac

if [ -n "$exe" ]; then
    [ -x "$exe" ] || { say "$exe, which the environment names, is not an executable file"; exit 1; }
    printf '%s\n' "$exe"
    exit 0
fi
cache=${XDG_CACHE_HOME:-$HOME/.cache}/spindex/$name
# One installer at a time: tests and people may call this together.
mkdir -p "$(dirname "$cache")"
exec 9>"$cache.lock"
flock 9
if [ ! -e "$cache/complete" ]; then
    command -v python3 >/dev/null || { say "there is no python3"; exit 75; }
    say "installing $name, once on this machine; log: $cache.log"
    rm -rf "$cache"
    {
        python3 -m venv "$cache" &&
            "$cache/bin/pip" install --disable-pip-version-check --timeout 15 --retries 1 "${packages[@]}"
    } >"$cache.log" 2>&1 || {
        say "$name could not be installed: $(grep -v '^$' "$cache.log" | tail -n 1)"
        exit 75
    }
    touch "$cache/complete" # last: its presence means that all of it is there
fi
printf '%s\n' "$cache/bin/$binary"

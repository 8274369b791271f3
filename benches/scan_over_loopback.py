#!/usr/bin/env python3
"""Tweaks a second: the kernel alone, a native scan over loopback, and one by version 1 of the same index, in turn.

    scan_over_loopback.py [--spindex FILE] [--network NAME] [--rounds N] [--threads N] DATA_DIR

DATA_DIR has an index (`spindex sync`), such as that of a chain of `spindex bench generate`. In every round the kernel is
measured by `spindex bench scan`, then a new wallet scans all of the index in either protocol. Of each scan the time is the
process's, less that of a scan of the last block alone, which costs as much at its beginning. Ratios are medians of the ratios
within the rounds. Beside them stands what the processor did meanwhile, in cores: of the client and of the server.
"""

import argparse
import json
import os
import pathlib
import resource
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url):
    with OPENER.open(url, timeout=60) as answer:
        return answer.read()


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def serve(arguments, threads):
    """A server over the index, once it answers, and its address."""
    address = f"127.0.0.1:{free_port()}"
    command = [arguments.spindex, "serve", "--network", arguments.network, "--data-dir", arguments.data_dir]
    command += ["--http-bind", address, "--threads", str(threads), "--log", "warn"]
    server = subprocess.Popen(command)
    while True:
        try:
            fetch(f"http://{address}/spindex/v1/info")
            return server, f"http://{address}"
        except OSError:
            if server.poll() is not None:
                raise SystemExit("the server does not start") from None
            time.sleep(0.1)


def tweaks_of(url, first):
    """How many eligible transactions there are: docs/native.md, `headers`."""
    data, at, tweaks = fetch(f"{url}/spindex/v1/range/headers?from={first}"), 0, 0
    while data[at + 5] == 1:
        blocks = int.from_bytes(data[at + 16 : at + 20], "little")
        rows = at + 60 + 4 * blocks
        for row in range(rows, rows + 288 * blocks, 288):
            tweaks += int.from_bytes(data[row + 80 : row + 84], "little")
        at = rows + 288 * blocks
    assert len(data) == at + 60, "an answer that was cut off"
    return tweaks


def busy(server):
    """Seconds of the processor that a process has used."""
    fields = pathlib.Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def scan(arguments, url, wallet, dialect, first, threads, server):
    """Seconds of a scan from a height on, and those of the processor: of the client, of the server."""
    with tempfile.TemporaryDirectory() as folder:
        command = [arguments.spindex, "scan", "--network", arguments.network, "--data-dir", folder]
        command += ["--oracle", url, "--wallet", wallet, "--state", f"{folder}/state", "--dialect", dialect]
        command += ["--from", str(first), "--threads", str(threads), "--log", "error", "--json"]
        before = (time.monotonic(), children(), busy(server))
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        after = (time.monotonic(), children(), busy(server))
    return [end - start for start, end in zip(before, after)]


def kernel(arguments, threads):
    """Tweaks a second of the fastest engine, for one wallet, its tweaks as points."""
    command = [arguments.spindex, "bench", "scan", "--rounds", "1", "--threads", str(threads), "--json"]
    answer = subprocess.run(command, check=True, capture_output=True).stdout
    rows = json.loads(answer)["rows"]
    of_one = [row for row in rows if row["wallets"] == 1 and row["labels"] == 1 and row["threads"] == threads]
    return max(row["tweaks_per_s"] for row in of_one if row["stored"] == 64)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", metavar="DATA_DIR")
    parser.add_argument("--spindex", default="target/release/spindex", help="the program [target/release/spindex]")
    parser.add_argument("--network", default="regtest")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    threads = arguments.threads
    server, url = serve(arguments, threads)
    try:
        info = json.loads(fetch(f"{url}/spindex/v1/info"))
        first, last = info["first_height"], info["tip"]["height"]
        tweaks = tweaks_of(url, first)
        print(f"{last - first + 1} blocks, {tweaks} tweaks, {threads} threads, {arguments.rounds} rounds", flush=True)
        rates = {"bench scan": [], "native": [], "v1": []}
        cores = {"native": [], "v1": []}
        with tempfile.TemporaryDirectory() as folder:
            wallet = f"{folder}/wallet"
            command = [arguments.spindex, "wallet", "new", "--log", "error", "--network", arguments.network, wallet]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            for _ in range(arguments.rounds):
                rates["bench scan"].append(kernel(arguments, threads))
                for dialect in ["native", "v1"]:
                    least = scan(arguments, url, wallet, dialect, last, threads, server)
                    whole = scan(arguments, url, wallet, dialect, first, threads, server)
                    seconds, client, served = [all - little for all, little in zip(whole, least)]
                    rates[dialect].append(tweaks / seconds)
                    cores[dialect].append((client / seconds, served / seconds))
                shown = ", ".join(f"{name} {found[-1]:.0f}/s" for name, found in rates.items())
                print(f"  {shown}", flush=True)
        for name, found in rates.items():
            ratio = statistics.median(own / kernel for own, kernel in zip(found, rates["bench scan"]))
            line = f"{name:<10} {statistics.median(found):>9.0f} tweaks/s, {100 * ratio:.0f} % of bench scan"
            if name in cores:
                client, served = (statistics.median(column) for column in zip(*cores[name]))
                idle = max(0.0, threads - client - served)
                parts = {"the client": client, "the server": served, "waiting": idle}
                most = max(parts, key=parts.get)
                line += f"; of {threads} cores the client has {client:.2f}, the server {served:.2f}: {most} limits"
            print(line)
    finally:
        server.terminate()
        server.wait()


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""A decoder of the native protocol, written from docs/native.md and BIP158 alone, with the standard library alone.

    decoder.py server URL FIRST     every column of every block from height FIRST on, from a running server
    decoder.py folder FOLDER        the same of exported files
    decoder.py vectors FOLDER       the vectors of fixtures/native

It decodes strictly, holds columns against each other, headers against their work, and everything against the hashes that
bind it and against SPCOMMIT. What it found is one line of JSON on stdout; what is wrong is an exit status of 1 and a line on
stderr.
"""

import hashlib
import json
import pathlib
import sys
import urllib.error
import urllib.request

CHUNK_BLOCKS = 64
COLUMNS = ["headers", "tweaks", "prefixes", "outputs", "spent", "spends", "new-utxos"]
SELECTED = ["selected", "tweaks", "prefixes"]
BOUND = ["tweaks", "prefixes", "outputs", "spent", "new-utxos", "spends"]
NETWORKS = {
    "f9beb4d9": "main",
    "0b110907": "test",
    "1c163f28": "testnet4",
    "0a03cf40": "signet",
    "fabfb5da": "regtest",
}
FIELD = 2**256 - 2**32 - 977


class Wrong(Exception):
    """Something is not as the page says."""


def ensure(condition, text):
    if not condition:
        raise Wrong(text)


def sha256(data):
    return hashlib.sha256(data).digest()


def shown(internal):
    """A hash in display order."""
    return internal[::-1].hex()


class Reader:
    """Bytes, from front to end."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        ensure(self.at + count <= len(self.data), "ends within a row")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, count):
        return int.from_bytes(self.take(count), "little")

    def varint(self, most):
        value, shift = 0, 0
        while True:
            byte = self.number(1)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                ensure(byte > 0 or shift == 0, "a varint that is not the shortest")
                ensure(value <= most, "a varint that is too large")
                return value
            shift += 7

    def end(self):
        ensure(self.at == len(self.data), "bytes behind the last row")


# Parts


def read_part(reader):
    """The next part: its head, and a section for each block. An end mark has the column None and no sections."""
    head = Reader(reader.take(60))
    ensure(head.take(4) == b"spix", "no part: it does not begin with spix")
    ensure(head.number(1) == 1, "a part of another format")
    number = head.number(1)
    ensure(number <= len(COLUMNS) + 1, "a part of an unknown column")
    kind = head.number(1)
    ensure(kind <= 1 and head.number(1) == 0, "reserved bytes that are not zero")
    magic = head.take(4).hex()
    ensure(magic in NETWORKS, "a part of an unknown network")
    part = {
        "column": [None, *COLUMNS, "selected"][number],
        "network": NETWORKS[magic],
        "first": head.number(4),
        "blocks": head.number(4),
    }
    length = head.number(8)
    part["last_hash"] = head.take(32)
    head.end()
    if number == 0:
        ensure(part["blocks"] == 0 and length == 0 and kind == 0, "an end mark with blocks")
        part["sections"] = []
        return part
    ensure(1 <= part["blocks"] <= CHUNK_BLOCKS, "a part without blocks, or with too many")
    body = Reader(reader.take(length))
    if kind == 1:
        ensure(part["column"] in SELECTED, "a selection of a column that has none")
        part["selection"] = read_selection(body)
        tip, last = part["selection"]["tip"], part["first"] + part["blocks"] - 1
        is_above = tip[0] > last or tip == [last, part["last_hash"]]
        ensure(is_above, "a selection that was made below its blocks")
    else:
        ensure(part["column"] != "selected", "a column of selections without one")
    lengths = [body.number(4) for _ in range(part["blocks"])]
    part["sections"] = [body.take(length) for length in lengths]
    body.end()
    return part


def read_selection(body):
    selection = {"dust_limit": body.number(8), "cut_through": body.number(1)}
    ensure(selection["cut_through"] <= 1 and body.number(3) == 0, "another rule for a selection")
    return selection | {"tip": [body.number(4), body.take(32)]}


def read_parts(data):
    reader, parts = Reader(data), []
    while reader.at < len(data):
        parts.append(read_part(reader))
    return parts


# Sections


def bits(data, count):
    """So many packed bits, the lowest of a byte first; the others are zero."""
    ensure(len(data) == (count + 7) // 8, "not as many bits as rows")
    packed = int.from_bytes(data, "little")
    ensure(packed >> count == 0, "bits behind the last row")
    return [packed >> index & 1 for index in range(count)]


def rows_and_bits(section, width):
    count = 8 * len(section) // (8 * width + 1)
    rows, flags = section[: width * count], section[width * count :]
    return [rows[at : at + width] for at in range(0, len(rows), width)], bits(flags, count)


def read_headers(section):
    reader = Reader(section)
    row = {"header": reader.take(80)}
    for name in ["transactions", "outputs", "spends", "states"]:
        row[name] = reader.number(4)
    row["sections"] = {column: reader.take(32) for column in BOUND}
    reader.end()
    return row


def read_tweaks(section):
    rows, odd = rows_and_bits(section, 32)
    return [bytes([2 + flag]) + x for x, flag in zip(rows, odd)]


def read_prefixes(section):
    """The prefixes of each transaction."""
    rows, lasts = rows_and_bits(section, 3)
    transactions, own = [], []
    for row, is_last in zip(rows, lasts):
        own.append(row)
        if is_last:
            transactions.append(own)
            own = []
    ensure(not own, "outputs of no transaction")
    return transactions


def read_outputs(section):
    reader, rows = Reader(section), []
    while reader.at < len(section):
        txid, outputs = reader.take(32), []
        count = reader.varint(2**32 - 1)
        ensure(count > 0, "a transaction without outputs")
        for _ in range(count):
            vout, value_sat = reader.varint(2**32 - 1), reader.varint(2**64 - 1)
            ensure(not outputs or outputs[-1]["vout"] < vout, "outputs that do not ascend")
            outputs.append({"vout": vout, "value_sat": value_sat, "key": reader.take(32)})
        rows.append({"txid": txid, "outputs": outputs})
    return rows


def read_selected(section, transactions):
    """For each of so many transactions whether it is selected."""
    return [bool(flag) for flag in bits(section, transactions)]


def read_spends(section):
    reader, spent, states = Reader(section), [], []
    for _ in range(reader.varint(2**32 - 1)):
        row = {"txid": reader.take(32), "vout": reader.varint(2**32 - 1), "key_prefix": reader.take(8)}
        spender = [reader.number(2), reader.number(2)]
        row["spender"] = None if spender == [0xFFFF, 0xFFFF] else spender
        spent.append(row)
    for _ in range(reader.varint(2**32 - 1)):
        state = {"transaction": reader.number(2), "vout": reader.varint(2**32 - 1)}
        state["txid"], state["state_id"] = reader.take(32), reader.take(32)
        states.append(state)
    reader.end()
    return {"spent": spent, "states": states}


# Filters (BIP158, with P and M of its basic filters)

FILTER_P, FILTER_M = 19, 784931
MASK = 2**64 - 1


def siphash(key, data):
    def left(value, by):
        return (value << by | value >> (64 - by)) & MASK

    k0, k1 = (int.from_bytes(key[at : at + 8], "little") for at in (0, 8))
    v0, v1 = k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D
    v2, v3 = k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    words = [int.from_bytes(padded[at : at + 8], "little") for at in range(0, len(padded), 8)]
    for rounds, word in [(2, word) for word in words] + [(4, None)]:
        v3 ^= word or 0
        if word is None:
            v2 ^= 0xFF
        for _ in range(rounds):
            v0, v2 = (v0 + v1) & MASK, (v2 + v3) & MASK
            v1, v3 = left(v1, 13) ^ v0, left(v3, 16) ^ v2
            v0, v2 = left(v0, 32), (v2 + v1) & MASK
            v0, v1 = (v0 + v3) & MASK, left(v1, 17) ^ v2
            v2, v3 = left(v2, 32), left(v3, 21) ^ v0
        v0 ^= word or 0
    return v0 ^ v1 ^ v2 ^ v3


def read_filter(section):
    """The values of a filter, ascending."""
    reader = Reader(section)
    count = reader.number(1)
    for mark, width in [(0xFD, 2), (0xFE, 4), (0xFF, 8)]:
        if count == mark:
            count = reader.number(width)
            ensure(count >= [mark, 2**16, 2**32][[2, 4, 8].index(width)], "a count that is not the shortest")
            break
    stream = section[reader.at :]
    packed, left, values, value = int.from_bytes(stream, "big"), 8 * len(stream), [], 0
    for _ in range(count):
        quotient = 0
        while True:
            ensure(left > 0, "a filter that ends within a value")
            left -= 1
            if not packed >> left & 1:
                break
            quotient += 1
        ensure(left >= FILTER_P, "a filter that ends within a value")
        left -= FILTER_P
        value += (quotient << FILTER_P) + (packed >> left & (1 << FILTER_P) - 1)
        ensure(value < count * FILTER_M, "a value beyond the range of the filter")
        values.append(value)
    ensure(left < 8 and packed & (1 << left) - 1 == 0, "bits behind the last value")
    return values


def filter_value(block_hash, element, count):
    return siphash(block_hash[:16], element) * (count * FILTER_M) >> 64


DECODERS = {
    "headers": read_headers,
    "tweaks": read_tweaks,
    "prefixes": read_prefixes,
    "outputs": read_outputs,
    "spent": read_filter,
    "spends": read_spends,
    "new-utxos": read_filter,
}


# Blocks


def check_header(header, before):
    """Links to the block before, and has the work that it claims. Answers its hash."""
    block_hash = sha256(sha256(header))
    ensure(before is None or header[4:36] == before, "a header that does not link to the one before")
    compact = int.from_bytes(header[72:76], "little")
    size, digits = compact >> 24, compact & 0x7FFFFF
    ensure(not compact & 0x800000 and digits, "a target that is none")
    target = digits << 8 * (size - 3) if size > 3 else digits >> 8 * (3 - size)
    ensure(int.from_bytes(block_hash, "little") <= target, "a header without the work that it claims")
    return block_hash


def is_point(tweak):
    x = int.from_bytes(tweak[1:], "big")
    square = (pow(x, 3, FIELD) + 7) % FIELD
    return x < FIELD and pow(square, (FIELD - 1) // 2, FIELD) == 1


def check_block(block_hash, columns):
    """Holds the columns of a block against each other."""
    counts, tweaks, outputs = columns["headers"], columns["tweaks"], columns["outputs"]
    spent, states = columns["spends"]["spent"], columns["spends"]["states"]
    keys = [output["key"] for row in outputs for output in row["outputs"]]
    found = [len(tweaks), len(keys), len(spent), len(states)]
    said = [counts[name] for name in ["transactions", "outputs", "spends", "states"]]
    ensure(found == said, f"counts of {said}, and {found} rows")
    ensure(len(outputs) == len(tweaks), "not one tweak for each transaction")
    ensure(all(map(is_point, tweaks)), "a tweak that is no point")
    prefixes = [[output["key"][:3] for output in row["outputs"]] for row in outputs]
    ensure(columns["prefixes"] == prefixes, "prefixes of other keys")

    spenders = [row["spender"] for row in spent if row["spender"]]
    ensure(not spenders or len(spenders) == len(spent), "some spenders are known and some are not")
    ensure(all(a < b for a, b in zip(spenders, spenders[1:])), "spends that are not in block order")
    places = [(state["transaction"], state["vout"]) for state in states]
    ensure(places == sorted(set(places)), "state ids that are not in block order")
    spending = {transaction for transaction, _ in spenders}
    ensure(all(place in spending for place, _ in places), "a state id of who spends nothing")

    def item(row):
        return sha256(row["txid"] + row["vout"].to_bytes(4, "little") + block_hash)[:8]

    values = sorted(filter_value(block_hash, item(row), len(spent)) for row in spent)
    ensure(columns["spent"] == values, "a spent filter of other outpoints")
    made = columns["new-utxos"]
    values = {filter_value(block_hash, key, len(made)) for key in keys}
    ensure(len(made) >= len(keys) and values <= set(made), "a new-UTXOs filter that lacks a key")


def commitments(height, block_hash, columns):
    """The commitments of both versions of SPCOMMIT."""
    outputs = columns["outputs"]
    tweaks = [tweak.hex() for tweak in columns["tweaks"]]
    start = f"{height}\n{block_hash.hex()}\n{len(tweaks)}\n"
    one = f"spcommit-v1\n{start}" + "\n".join(sorted(tweaks))
    rows = []
    for row, tweak in zip(outputs, tweaks):
        keys = "".join(output["key"][:8].hex() for output in row["outputs"])
        rows.append((shown(row["txid"]), f"{tweak}\n{keys}\n"))
    two = f"spcommit-v2\n{start}" + "".join(f"{txid}\n{rest}" for txid, rest in sorted(rows))
    two += "spent\n" + "".join(row["key_prefix"].hex() for row in columns["spends"]["spent"]) + "\n"
    return [sha256(text.encode()).hex() for text in (one, two)]


class Chain:
    """Blocks in order, and what binds them."""

    def __init__(self, network, first):
        self.network, self.first, self.next = network, first, first
        self.before, self.head = None, bytes(32)
        self.links, self.links_head = [], [
            sha256(f"spcommit-v{version}-genesis".encode()).hex() for version in (1, 2)
        ]
        self.totals = dict.fromkeys(["transactions", "outputs", "spends", "states", "unknown_spenders"], 0)

    def append(self, parts):
        """A group of parts: every column of the same blocks."""
        ensure([part["column"] for part in parts] == COLUMNS, "other columns than were asked for")
        for part in parts:
            same = [part[name] == parts[0][name] for name in ["network", "first", "blocks", "last_hash"]]
            ensure(all(same), "parts of other blocks")
        ensure(parts[0]["network"] == self.network, "parts of another network")
        ensure(parts[0]["first"] == self.next, "parts of other heights")
        for index in range(parts[0]["blocks"]):
            try:
                self.append_block({part["column"]: part["sections"][index] for part in parts})
            except Wrong as wrong:
                raise Wrong(f"height {self.next}: {wrong}") from None
        ensure(self.before == parts[0]["last_hash"], "parts that name another block")

    def append_block(self, sections):
        columns = {}
        for column, section in sections.items():
            try:
                columns[column] = DECODERS[column](section)
            except Wrong as wrong:
                raise Wrong(f"{column}: {wrong}") from None
        headers = columns["headers"]
        block_hash = check_header(headers["header"], self.before)
        for column in BOUND:
            is_bound = sha256(sections[column]) == headers["sections"][column]
            ensure(is_bound, f"{column}: another section than the header's hash is of")
        check_block(block_hash, columns)
        bound = b"".join(headers["sections"][column] for column in BOUND[:5])
        if self.network != "main" or self.next >= 709_656:
            self.head = sha256(self.head + block_hash + bound)
            both = commitments(self.next, block_hash, columns)
            self.links_head = [sha256((head + commitment).encode()).hex() for head, commitment in zip(self.links_head, both)]
            links = [{"commitment": c, "head": h} for c, h in zip(both, self.links_head)]
            of_block = {"height": self.next, "block_hash": shown(block_hash), "v1": links[0], "v2": links[1]}
            self.links.append(of_block | {"columns_head": self.head.hex()})
        for name in ["transactions", "outputs", "spends", "states"]:
            self.totals[name] += headers[name]
        self.totals["unknown_spenders"] += sum(row["spender"] is None for row in columns["spends"]["spent"])
        self.before, self.next = block_hash, self.next + 1

    def found(self):
        return {
            "network": self.network,
            "first": self.first,
            "last": self.next - 1,
            "last_block": shown(self.before),
            "head": self.head.hex(),
            "links": self.links_head,
        } | self.totals


# Selections


def selects(rule, transaction, spent):
    """Whether a rule keeps a transaction of `outputs`, where these outpoints are spent."""
    counted = [
        output["value_sat"]
        for output in transaction["outputs"]
        if not (rule["cut_through"] and (transaction["txid"], output["vout"]) in spent)
    ]
    return bool(counted) and max(counted) >= rule["dust_limit"]


def check_selections(fetch_range, groups, tip):
    """Holds selections of blocks up to the tip against all that there is of them."""
    blocks = {
        group["first"] + index: {column: group["sections"][column][index] for column in COLUMNS}
        for group in groups
        for index in range(group["blocks"])
    }
    spent = {(row["txid"], row["vout"]) for block in blocks.values() for row in read_spends(block["spends"])["spent"]}
    found = []
    for dust_limit, cut_through in [(0, 1), (50_000, 0), (1_000_000, 1)]:
        rule = {"dust_limit": dust_limit, "cut_through": cut_through}
        query = f"&dust_limit={dust_limit}&cut_through={'true' if cut_through else 'false'}"
        *parts, end = read_parts(fetch_range("headers,selected,tweaks,prefixes", query))
        ensure(end["column"] is None and [end["first"], end["last_hash"]] == tip, "a selection that was cut off")
        count, height = 0, groups[0]["first"]
        for at in range(0, len(parts), 4):
            headers, *selected = parts[at : at + 4]
            ensure([part["column"] for part in selected] == SELECTED, "other columns of a selection")
            ensure("selection" not in headers and headers["first"] == height, "other headers")
            for part in selected:
                ensure(part["selection"] == rule | {"tip": tip}, "another selection than was asked for")
                same = [part[name] == headers[name] for name in ["network", "first", "blocks", "last_hash"]]
                ensure(all(same), "a selection of other blocks")
            for header, flags, tweaks, prefixes in zip(headers["sections"], *(part["sections"] for part in selected)):
                block = blocks[height]
                height += 1
                ensure(header == block["headers"], "another header")
                outputs = read_outputs(block["outputs"])
                flags = read_selected(flags, len(outputs))
                ensure(flags == [selects(rule, row, spent) for row in outputs], "other transactions than the rule keeps")
                pairs = [(read_tweaks(tweaks), "tweaks"), (read_prefixes(prefixes), "prefixes")]
                for some, column in pairs:
                    whole = DECODERS[column](block[column])
                    ensure(some == [row for row, flag in zip(whole, flags) if flag], f"other {column} of a selection")
                count += sum(flags)
        ensure(height == tip[0] + 1, "a selection that ends early")
        found.append(count)
    return found


# Where columns come from

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def fetch(url):
    try:
        with OPENER.open(url, timeout=60) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        raise Wrong(f"{url}: {error.read().decode()}") from None


def of_server(url, first):
    base = url.rstrip("/") + "/spindex/v1"
    data = fetch(f"{base}/range/{','.join(COLUMNS)}?from={first}")
    *parts, end = read_parts(data)
    ensure(end["column"] is None, "a range that was cut off")
    chain = Chain(end["network"], first)
    width, groups = len(COLUMNS), []
    for at in range(0, len(parts), width):
        group = parts[at : at + width]
        chain.append(group)
        sections = {part["column"]: part["sections"] for part in group}
        groups.append({"first": group[0]["first"], "blocks": group[0]["blocks"], "sections": sections})
        if group[0]["blocks"] == CHUNK_BLOCKS:
            # The chunk is the same, whole and column by column.
            chunk = f"{base}/chunk/{group[0]['first'] // CHUNK_BLOCKS}"
            single = [fetch(f"{chunk}/{column}") for column in COLUMNS]
            ensure(read_parts(b"".join(single)) == group, f"{chunk} has other parts than the range")
    reached = (chain.next - 1, chain.before)
    ensure((end["first"], end["last_hash"]) == reached, "an end mark of another block")
    said = []
    while len(said) < len(chain.links):
        at = chain.links[0]["height"] + len(said)
        to = min(at + 143, chain.next - 1)
        said += json.loads(fetch(f"{base}/commitments?from={at}&to={to}"))["blocks"]
    for ours, theirs in zip(chain.links, said):
        ensure(ours == theirs, f"height {ours['height']}: commitments of {theirs}, and {ours} computed")
    fetch_range = lambda names, query: fetch(f"{base}/range/{names}?from={first}{query}")
    return chain.found() | {"selected": check_selections(fetch_range, groups, list(reached))}


def of_folder(folder):
    base = pathlib.Path(folder) / "spindex" / "v1"
    manifest = json.loads((base / "manifest.json").read_bytes())
    ensure(manifest["format"] == 1 and manifest["chunk_blocks"] == CHUNK_BLOCKS, "a manifest of another format")
    ensure(manifest["columns"] == COLUMNS, "not all columns")
    chain = Chain(manifest["network"], manifest["first_height"])
    for listed in manifest["lists"]:
        text = (base / listed["name"]).read_bytes()
        ensure(sha256(text).hex() == listed["sha256"], f"{listed['name']}: other bytes than the manifest names")
        for chunk in json.loads(text)["chunks"]:
            group = []
            for column, file in zip(COLUMNS, chunk["files"], strict=True):
                name = f"chunk/{chunk['chunk']}/{column}"
                data = (base / name).read_bytes()
                ensure(len(data) == file["bytes"] and sha256(data).hex() == file["sha256"], f"{name}: other bytes than are listed")
                parts = read_parts(data)
                ensure(len(parts) == 1, f"{name}: not one part")
                group += parts
            ensure(group[0]["first"] // CHUNK_BLOCKS == chunk["chunk"], f"chunk {chunk['chunk']} has other heights")
            chain.append(group)
            ensure(shown(chain.before) == chunk["block_hash"], f"chunk {chunk['chunk']} ends with another block")
            ensure(chain.head.hex() == chunk["head"], f"chunk {chunk['chunk']} has another head")
    last = {"height": chain.next - 1, "block_hash": shown(chain.before)}
    ensure(manifest["last_block"] == last and manifest["head"] == chain.head.hex(), "a manifest of another last block")
    return chain.found()


# Vectors


def as_json(column, block_hash, decoded, expected):
    """What a section says, in the words of the vectors."""
    if column == "headers":
        sections = {name: value.hex() for name, value in decoded["sections"].items()}
        return decoded | {"header": decoded["header"].hex(), "sections": sections}
    if column == "tweaks":
        return [tweak.hex() for tweak in decoded]
    if column == "prefixes":
        return [[key.hex() for key in keys] for keys in decoded]
    if column == "outputs":
        rows = [[output | {"key": output["key"].hex()} for output in row["outputs"]] for row in decoded]
        return [{"txid": shown(row["txid"]), "outputs": outputs} for row, outputs in zip(decoded, rows)]
    if column == "spends":
        spent = [
            {
                "outpoint": f"{shown(row['txid'])}:{row['vout']}",
                "key_prefix": row["key_prefix"].hex(),
                "spender": row["spender"],
            }
            for row in decoded["spent"]
        ]
        hexed = [{"txid": shown(row["txid"]), "state_id": row["state_id"].hex()} for row in decoded["states"]]
        return {"spent": spent, "states": [row | texts for row, texts in zip(decoded["states"], hexed)]}
    # A filter does not say what it was made of.
    elements = [bytes.fromhex(element) for element in expected]
    values = sorted(filter_value(block_hash, element, len(elements)) for element in elements)
    return expected if values == decoded else decoded


def of_vectors(folder):
    folder = pathlib.Path(folder)
    parts = {column: json.loads((folder / f"{column}.json").read_text()) for column in COLUMNS}
    headers = read_parts(bytes.fromhex(parts["headers"]["hex"]))[0]["sections"]
    hashes = [sha256(sha256(section[:80])) for section in headers]
    for column, vector in parts.items():
        [part] = read_parts(bytes.fromhex(vector["hex"]))
        head = {"column": column} | {name: vector[name] for name in ["network", "first", "blocks"]}
        ensure({name: part[name] for name in head} == head, f"{column}: another head")
        ensure(shown(part["last_hash"]) == vector["last_block"], f"{column}: another last block")
        expected = vector["sections"]
        ensure(len(expected) == part["blocks"], f"{column}: another number of sections")
        for section, block_hash, values in zip(part["sections"], hashes, expected):
            found = as_json(column, block_hash, DECODERS[column](section), values)
            ensure(found == values, f"{column}: {found} instead of {values}")
    for name, column in [("selected", "selected"), ("selected-tweaks", "tweaks"), ("selected-prefixes", "prefixes")]:
        vector = json.loads((folder / f"{name}.json").read_text())
        [part] = read_parts(bytes.fromhex(vector["hex"]))
        height, block_hash = part["selection"]["tip"]
        selection = part["selection"] | {"tip": {"height": height, "block_hash": shown(block_hash)}}
        ensure(selection == {key: vector[key] for key in selection}, f"{name}: another selection")
        ensure(part["column"] == column and part["first"] == vector["first"], f"{name}: another head")
        for section, header, values in zip(part["sections"], headers, vector["sections"], strict=True):
            if column == "selected":
                found = read_selected(section, read_headers(header)["transactions"])
            else:
                found = as_json(column, None, DECODERS[column](section), values)
            ensure(found == values, f"{name}: {found} instead of {values}")
    vector = json.loads((folder / "end.json").read_text())
    [end] = read_parts(bytes.fromhex(vector["hex"]))
    found = {"network": end["network"], "reached": end["first"], "block": shown(end["last_hash"])}
    ensure(found == {name: vector[name] for name in found} and end["column"] is None, "end: another mark")
    return {"vectors": len(parts) + 4}


def main(arguments):
    match arguments:
        case ["server", url, first]:
            return of_server(url, int(first))
        case ["folder", folder]:
            return of_folder(folder)
        case ["vectors", folder]:
            return of_vectors(folder)
    raise Wrong(__doc__)


if __name__ == "__main__":
    try:
        print(json.dumps(main(sys.argv[1:])))
    except Wrong as wrong:
        sys.exit(f"wrong: {wrong}")

#!/usr/bin/env python3
"""Asks a server for every prefix of a data set, and checks region and scope of each answer.

usage: check.py DATADIR [--server ADDRESS] [--port PORT] [--name NAME] [--each N] [--seed N]

DATADIR/truth.tsv holds disjoint prefixes, each with the number of its region; region r has the
addresses 198.51.100.(16r+1 .. 16r+3), and a client of no prefix belongs to region 3. For each prefix N
random addresses (default 1) are asked for: as /24 or /56, and as a whole address. Reported:

  wrong     answers of another region than the truth's
  unsound   scopes inside which some address belongs to another region
  excess    bits by which a scope is narrower than the widest sound one, on average
"""
import argparse, bisect, ipaddress, os, random, socket, struct, sys, time

DEFAULT = 3
WINDOW = 64


class Runs:
    """The address space of one family, cut where the region changes."""

    def __init__(self, table, width):
        self.width, self.starts, self.values = width, [0], [DEFAULT]
        for low, high, region in sorted(table):
            self.push(low, region)
            if high + 1 < 1 << width:
                self.push(high + 1, DEFAULT)

    def push(self, start, region):
        if self.starts[-1] == start:
            self.starts.pop(), self.values.pop()
        if not self.values or self.values[-1] != region:
            self.starts.append(start), self.values.append(region)

    def find(self, address):
        """region, and the length of the widest prefix around the address that is all in it"""
        at = bisect.bisect_right(self.starts, address) - 1
        low = self.starts[at]
        high = self.starts[at + 1] - 1 if at + 1 < len(self.starts) else (1 << self.width) - 1
        for length in range(self.width + 1):
            host = (1 << (self.width - length)) - 1
            if address & ~host >= low and address | host <= high:
                return self.values[at], length


def query(number, name, address, length):
    question = b"".join(bytes([len(l)]) + l.encode() for l in name.rstrip(".").split(".")) + b"\0"
    packed = ipaddress.ip_network((address, length), strict=False).network_address.packed
    packed = packed[: (length + 7) // 8]
    ecs = struct.pack("!HBB", 1 if address.version == 4 else 2, length, 0) + packed
    opt = b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(ecs) + 4) + struct.pack("!HH", 8, len(ecs)) + ecs
    return struct.pack("!HHHHHH", number, 0, 1, 0, 0, 1) + question + struct.pack("!HH", 1, 1) + opt


def skip_name(m, at):
    while m[at]:
        if m[at] >= 192:
            return at + 2
        at += 1 + m[at]
    return at + 1


def read(m):
    """regions of the addresses, and the scope"""
    _id, _flags, questions, answers, authority, additional = struct.unpack("!HHHHHH", m[:12])
    at, regions, scope = 12, set(), None
    for _ in range(questions):
        at = skip_name(m, at) + 4
    for n in range(answers + authority + additional):
        at = skip_name(m, at)
        kind, _class, _ttl, length = struct.unpack("!HHIH", m[at:at + 10])
        at += 10
        if kind == 1 and n < answers:
            regions.add((m[at + 3] - 1) // 16)
        if kind == 41:
            option = at
            while option < at + length:
                code, size = struct.unpack("!HH", m[option:option + 4])
                if code == 8:
                    scope = m[option + 7]
                option += 4 + size
        at += length
    return regions, scope


def truth(data):
    """by family first address, last address and region of each prefix; and the prefixes"""
    tables, prefixes = {4: [], 6: []}, []
    for line in open(os.path.join(data, "truth.tsv")):
        prefix, region = line.split()
        net = ipaddress.ip_network(prefix)
        tables[net.version].append((int(net.network_address), int(net.broadcast_address), int(region)))
        prefixes.append(net)
    return tables, prefixes


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("data")
    arguments.add_argument("--server", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=5310)
    arguments.add_argument("--name", default="n0001.svc.example.test")
    arguments.add_argument("--each", type=int, default=1)
    arguments.add_argument("--seed", type=int, default=1)
    a = arguments.parse_args()
    rng = random.Random(a.seed)
    tables, prefixes = truth(a.data)
    runs = {4: Runs(tables[4], 32), 6: Runs(tables[6], 128)}

    def clients():
        for net in prefixes:
            for _ in range(a.each):
                address = ipaddress.ip_address(int(net.network_address) + rng.randrange(net.num_addresses)) \
                    if net.version == 4 else ipaddress.IPv6Address(int(net.network_address) + rng.randrange(net.num_addresses))
                for length in ((24, 32) if net.version == 4 else (56, 128)):
                    yield ipaddress.ip_network((address, length), strict=False)

    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((a.server, a.port))
    s.settimeout(1)
    asked = wrong = unsound = excess = lost = 0
    pending, source, number, examples = {}, clients(), 0, []
    done = False
    while not done or pending:
        while not done and len(pending) < WINDOW:
            net = next(source, None)
            if net is None:
                done = True
                break
            number = (number + 1) % 65536
            pending[number] = (net, time.time(), 0)
            s.send(query(number, a.name, net.network_address, net.prefixlen))
        try:
            m = s.recv(4096)
        except socket.timeout:
            for n, (net, _sent, tries) in list(pending.items()):
                if tries == 5:
                    del pending[n]
                    lost += 1
                else:
                    pending[n] = (net, time.time(), tries + 1)
                    s.send(query(n, a.name, net.network_address, net.prefixlen))
            continue
        found = pending.pop(struct.unpack("!H", m[:2])[0], None)
        if not found:
            continue
        net = found[0]
        region, widest = runs[net.version].find(int(net.network_address))
        told, scope = read(m)
        asked += 1
        if told != {region}:
            wrong += 1
            examples.append(f"{net}: {told}, not {region}")
        if scope is None or scope < widest:
            unsound += 1
            examples.append(f"{net}: scope {scope}, but /{widest} is the widest sound one")
        else:
            excess += scope - widest
    print(f"asked {asked} lost {lost} wrong {wrong} unsound {unsound} excess {excess / max(1, asked):.4f} bits")
    print("\n".join(examples[:10]), end="\n" if examples else "")
    sys.exit(1 if wrong or unsound or lost or not asked else 0)


if __name__ == "__main__":
    main()

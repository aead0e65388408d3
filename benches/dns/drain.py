#!/usr/bin/env python3
"""Drains a region of a static zone while it is flooded, and counts lost and wrong answers.

usage: drain.py STATEFILE [--server ADDRESS] [--port PORT] [--client ADDRESS] [--region N] [--flood COMMAND]

A client of region N asks without pause over its own socket. The state file is written, and later
removed; reported are the times until the answers change, and what was lost (no answer in a second) or
wrong (neither the region nor the next one, or the old one again after the new one).
"""
import argparse, ipaddress, os, shlex, socket, struct, subprocess, sys, time


def query(number, name, address):
    question = b"".join(bytes([len(l)]) + l.encode() for l in name.rstrip(".").split(".")) + b"\0"
    ecs = struct.pack("!HBB", 1, 24, 0) + ipaddress.ip_address(address).packed[:3]
    opt = b"\0" + struct.pack("!HHIH", 41, 1232, 0, len(ecs) + 4) + struct.pack("!HH", 8, len(ecs)) + ecs
    return struct.pack("!HHHHHH", number, 0, 1, 0, 0, 1) + question + struct.pack("!HH", 1, 1) + opt


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("state")
    arguments.add_argument("--server", default="127.0.0.1")
    arguments.add_argument("--port", type=int, default=5310)
    arguments.add_argument("--client", default="127.0.0.1")
    arguments.add_argument("--region", type=int, default=0)
    arguments.add_argument("--name", default="n0001.svc.example.test")
    arguments.add_argument("--flood", help="a command that floods the server meanwhile")
    a = arguments.parse_args()
    flood = subprocess.Popen(shlex.split(a.flood), stdout=subprocess.PIPE) if a.flood else None
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect((a.server, a.port))
    s.settimeout(1)
    asked = lost = wrong = 0
    number = 0

    def ask():
        nonlocal asked, lost, number
        number = (number + 1) % 65536
        asked += 1
        s.send(query(number, a.name, a.client))
        while True:
            try:
                m = s.recv(4096)
            except socket.timeout:
                lost += 1
                return None
            if struct.unpack("!H", m[:2])[0] == number:
                # The first answer's address: after header, question, and the record's head.
                at = 12 + len(a.name) + 2 + 4 + 12
                return (m[at + 3] - 1) // 16

    def watch(before, seconds):
        nonlocal wrong
        start, changed = time.time(), None
        while time.time() - start < seconds:
            told = ask()
            if told is None or told == before and changed is None:
                continue
            if changed is None:
                changed = (time.time() - start, told)
            elif told != changed[1]:
                wrong += 1
        return changed

    time.sleep(1)
    first = ask()
    if first != a.region:
        sys.exit(f"the client is told of region {first}, not {a.region}")
    with open(a.state + ".new", "w") as file:
        file.write(f'r{a.region} = "drain"\n')
    os.rename(a.state + ".new", a.state)
    away = watch(a.region, 3)
    os.remove(a.state)
    back = watch(away[1], 3) if away else None
    text = lambda change: f"{change[0] * 1000:.0f} ms (to region {change[1]})" if change else "never"
    print(f"asked {asked} lost {lost} wrong {wrong}; drained after {text(away)}, back after {text(back)}")
    if flood:
        flood.wait()
        print("flood (answers/s, -, answers):", flood.stdout.read().decode().strip())
    sys.exit(1 if lost or wrong or not away or not back or max(away[0], back[0]) > 1 else 0)


main()

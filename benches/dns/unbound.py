#!/usr/bin/env python3
"""Asks a static zone through a real resolver with a cache by client subnet (unbound).

usage: unbound.py DATADIR [--port PORT] [--clients N]

Starts unbound on loopback, which sends client subnets to the server at PORT and keeps answers for
their scope. N random clients (default 400) ask for one name, then a neighbour of each, who is inside the
widest prefix that is all in one region. Reported: clients told of their own region, and neighbours that
were told right, and how many of those came from unbound's cache.
"""
import argparse, ipaddress, os, random, socket, subprocess, sys, tempfile, time
import importlib.util

spec = importlib.util.spec_from_file_location("check", os.path.join(os.path.dirname(os.path.abspath(__file__)), "check.py"))
check = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check)


def free_port():
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.bind(("127.0.0.1", 0))
    return s.getsockname()[1]


def misses(config):
    text = subprocess.run(["unbound-control", "-c", config, "stats_noreset"], capture_output=True, text=True).stdout
    return int(float(dict(line.split("=", 1) for line in text.splitlines() if "=" in line)["num.query.subnet"])), \
        int(float(dict(line.split("=", 1) for line in text.splitlines() if "=" in line)["num.query.subnet_cache"]))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("data")
    arguments.add_argument("--port", type=int, default=5310)
    arguments.add_argument("--clients", type=int, default=400)
    a = arguments.parse_args()
    rng = random.Random(1)
    table, prefixes = check.truth(a.data)
    runs = check.Runs(table[4], 32)
    nets = [net for net in prefixes if net.version == 4 and not net.network_address.is_loopback]
    port, control, folder = free_port(), free_port(), tempfile.mkdtemp()
    config = os.path.join(folder, "unbound.conf")
    with open(config, "w") as file:
        file.write(f"""server:
  interface: 127.0.0.1
  port: {port}
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: ""
  use-syslog: no
  logfile: "{folder}/log"
  do-not-query-localhost: no
  extended-statistics: yes
  num-threads: 1
  module-config: "subnetcache iterator"
  send-client-subnet: 127.0.0.1
  client-subnet-always-forward: yes
  max-client-subnet-ipv4: 24
  max-ecs-tree-size-ipv4: 10000
  local-zone: "test." nodefault
stub-zone:
  name: "svc.example.test"
  stub-addr: 127.0.0.1@{a.port}
remote-control:
  control-enable: yes
  control-interface: 127.0.0.1
  control-port: {control}
  control-use-cert: no
""")
    unbound = subprocess.Popen(["unbound", "-d", "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.connect(("127.0.0.1", port))
    s.settimeout(2)
    name = "n0001.svc.example.test"

    def ask(address):
        m = bytearray(check.query(1, name, ipaddress.ip_address(address), 24))
        m[2] |= 1  # RD
        for _ in range(15):
            try:
                s.send(bytes(m))
                reply = s.recv(4096)
                if reply[3] & 15 == 0:
                    return check.read(reply)[0]
            except OSError:
                pass
            time.sleep(0.2)
        return None

    try:
        ask("203.0.113.0")
        right = near = 0
        pairs = []
        for net in rng.sample(nets, a.clients):
            client = (int(net.network_address) + rng.randrange(net.num_addresses)) & ~255
            region, length = runs.find(client)
            length = min(length, 24)
            neighbour = (client & ~((1 << (32 - length)) - 1)) + rng.randrange(1 << (32 - length)) & ~255
            pairs.append((neighbour, region))
            right += ask(client) == {region}
        before = misses(config)
        for neighbour, region in pairs:
            near += ask(neighbour) == {region}
        after = misses(config)
        print(f"clients right {right}/{a.clients}, neighbours right {near}/{a.clients}, "
              f"from the cache {after[1] - before[1]}/{a.clients}")
        sys.exit(0 if right == near == a.clients else 1)
    finally:
        unbound.terminate()
        unbound.wait()


main()

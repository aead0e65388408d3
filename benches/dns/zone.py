#!/usr/bin/env python3
"""Writes a static zone for a data set of prefixes: zone.toml and prefixes.tsv.

usage: zone.py DATADIR [--by prefix|country] [--listen ADDRESS] [--workers N] [--out DIR] [--no-limit] [--general]

DATADIR holds truth.tsv (prefix <tab> number of a region), names.txt and geo.mmdb, as the measuring
kit's gen.py makes them: eight regions with three addresses each, clients of no prefix to region 3.
--by prefix (default) decides by truth.tsv, --by country by geo.mmdb: both must give the same answers.
"""
import argparse, os

COUNTRIES = ["US", "CA", "BR", "DE", "GB", "ZA", "JP", "AU"]
DEFAULT = 3


def order(first):
    return ", ".join(f'"r{(first + k) % len(COUNTRIES)}"' for k in range(len(COUNTRIES)))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("data")
    arguments.add_argument("--by", choices=["prefix", "country"], default="prefix")
    arguments.add_argument("--listen", default="127.0.0.1:5310")
    arguments.add_argument("--workers", type=int, default=1)
    arguments.add_argument("--out")
    arguments.add_argument("--no-limit", action="store_true", help="no limit of replies per source")
    arguments.add_argument("--general", action="store_true", help="no fast path: for comparing the general one")
    a = arguments.parse_args()
    data = os.path.abspath(a.data)
    out = os.path.abspath(a.out or data)
    toml = [f'origin = "svc.example.test"', 'state_file = "states.toml"', "", "[redirector]",
            f'listen = ["{a.listen}"]', f"workers = {a.workers}", "ttl_secs = 60", "ttl_static_secs = 60"]
    if a.general:
        toml += ["fast_path = false"]
    if a.no_limit:
        toml += ["limits.replies_per_second = 0"]
    for region in range(len(COUNTRIES)):
        addresses = ", ".join(f'"198.51.100.{16 * region + i}"' for i in (1, 2, 3))
        toml += ["", "[[region]]", f'name = "r{region}"', f"addresses = [{addresses}]"]
    for number in (1, 2):
        toml += ["", "[[name_server]]", f'name = "ns{number}"', f'v4 = "127.0.0.{number}"']
    toml += ["", "[[service]]", 'name = "www"', f'names_file = "{data}/names.txt"',
             "", "[clients]", f"default = [{order(DEFAULT)}]"]
    if a.by == "prefix":
        toml += ['prefix_file = "prefixes.tsv"']
        with open(os.path.join(out, "prefixes.tsv"), "w") as prefixes:
            for line in open(os.path.join(data, "truth.tsv")):
                prefix, region = line.split()
                prefixes.write(f"{prefix}\tr{region}\n")
    else:
        toml += [f'geoip = "{data}/geo.mmdb"']
        toml += [f"country.{code} = [{order(region)}]" for region, code in enumerate(COUNTRIES)]
    path = os.path.join(out, "zone.toml")
    with open(path, "w") as file:
        file.write("\n".join(toml) + "\n")
    print(path)


main()

"""Twelve requests to each, four at a time."""
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

import rpc

channel = rpc.channel()


def ask(number):
    for service in ("outof", "forked", "pool"):
        assert urlopen(f"http://{service}/?id={number}").status == 200
    if number < 4:
        assert urlopen(f"http://secret/?id={number}").status == 200
    rpc.call(channel, f"id={number}")


with ThreadPoolExecutor(4) as workers:
    list(workers.map(ask, range(12)))

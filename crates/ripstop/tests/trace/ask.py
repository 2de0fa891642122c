"""Thirty requests, ten at a time."""
from concurrent.futures import ThreadPoolExecutor
from urllib.request import urlopen

with ThreadPoolExecutor(10) as pool:
    for number, body in enumerate(pool.map(lambda n: urlopen(f"http://front/?id={n}").read(), range(30))):
        assert body == str(number).encode(), (number, body)

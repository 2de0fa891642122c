"""Places orders, one at a time and then fifty at once. Ends with 0 if every one succeeded, else with 1.

    ripstop up examples/orders/mesh.yaml --exec 'python3 examples/orders/check.py'

ORDERS (default http://orders) is where the order service is. Each run uses user IDs of its own, because the user
service remembers for which IDs it has failed already.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import sys
import time
import urllib.error
import urllib.request

ORDERS = os.environ.get("ORDERS", "http://orders")
RUN = f"{time.time_ns() // 1000:x}-{os.getpid()}"
# The machine's own HTTP_PROXY is not for these.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def place(number):
    """None, or why the order failed."""
    order = json.dumps({"user": f"{RUN}-{number}"}).encode()
    request = urllib.request.Request(f"{ORDERS}/orders", data=order, headers={"Content-Type": "application/json"})
    try:
        with HTTP.open(request, timeout=60) as response:
            placed = json.load(response)
            return None if placed.get("order") == f"order-for-{RUN}-{number}" else f"another order: {placed}"
    except urllib.error.HTTPError as error:
        return f"{error.code} {error.read().decode(errors='replace')}"
    except OSError as error:
        return str(error)


def report(name, results, seconds):
    failures = collections.Counter(result for result in results if result)
    good = len(results) - sum(failures.values())
    print(f"{name}: {good} of {len(results)} orders succeeded in {seconds:.2f} s")
    for reason, count in failures.most_common(5):
        print(f"  {count} failed: {reason}")
    return good == len(results)


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--one-at-a-time", type=int, default=20, metavar="N")
    options.add_argument("--at-once", type=int, default=50, metavar="N")
    options = options.parse_args()

    start = time.monotonic()
    results = [place(number) for number in range(options.one_at_a_time)]
    good = report("one at a time", results, time.monotonic() - start)

    start = time.monotonic()
    numbers = range(options.one_at_a_time, options.one_at_a_time + options.at_once)
    with concurrent.futures.ThreadPoolExecutor(max(1, options.at_once)) as pool:
        results = list(pool.map(place, numbers))
    good &= report("at once", results, time.monotonic() - start)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

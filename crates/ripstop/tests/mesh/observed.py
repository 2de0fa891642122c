"""Reads every metrics page of a mesh with Prometheus' own parser: observed.py ADDR WORKLOADS.

ADDR is the merged page that `ripstop up` names; the sidecars are found beside it, on the /22 of their mesh. The traffic is
five GETs of `hello` and a connection to `echo` that has moved 1000 bytes each way and is still open."""
import ipaddress, sys, time, urllib.error, urllib.request
from prometheus_client.parser import text_string_to_metric_families as parse

LABELS = set("""reporter source_workload source_canonical_service source_canonical_revision source_workload_namespace
source_principal source_app source_version source_cluster destination_workload destination_workload_namespace
destination_principal destination_app destination_version destination_service destination_canonical_service
destination_canonical_revision destination_service_name destination_service_namespace destination_cluster
request_protocol response_flags connection_security_policy""".split())
REQUESTS = {"istio_requests": "counter", "istio_request_duration_milliseconds": "histogram",
            "istio_request_bytes": "histogram", "istio_response_bytes": "histogram"}
TCP = {"istio_tcp_sent_bytes": "counter", "istio_tcp_received_bytes": "counter",
       "istio_tcp_connections_opened": "counter", "istio_tcp_connections_closed": "counter"}
BUCKETS = ("0.5 1.0 5.0 10.0 25.0 50.0 100.0 250.0 500.0 1000.0 2500.0 5000.0 10000.0 30000.0 60000.0 300000.0 "
           "600000.0 1800000.0 3600000.0 +Inf").split()

merged, workloads = sys.argv[1], int(sys.argv[2])
host = ipaddress.ip_address(merged.rsplit(":", 1)[0])
mesh = ipaddress.ip_network(f"{host}/22", strict=False)


def get(url):
    return urllib.request.urlopen(url, timeout=10).read().decode()


def families(url):
    read = {family.name: family for family in parse(get(url))}
    assert read, f"{url} is empty"
    return read


def listening(port):
    found = []
    for line in open("/proc/net/tcp").readlines()[1:]:
        fields = line.split()
        address, number = fields[1].split(":")
        if fields[3] == "0A" and int(number, 16) == port:
            ip = ipaddress.ip_address(bytes.fromhex(address)[::-1])
            if ip in mesh and ip != host:
                found.append(str(ip))
    return found


def total(read, name, **wanted):
    samples = [s for f in read.values() for s in f.samples if s.name == name]
    return sum(s.value for s in samples if all(s.labels.get(k) == v for k, v in wanted.items()))


def shape(read):
    for name, kind in {**REQUESTS, **TCP}.items():
        if name not in read:
            continue
        assert read[name].type == kind, (name, read[name].type)
        for sample in read[name].samples:
            labels = set(sample.labels) - {"le", "instance"}
            more = set() if name in TCP else {"response_code", "grpc_response_status"}
            assert labels == LABELS | more, (name, labels ^ (LABELS | more))
    for name in (n for n, kind in REQUESTS.items() if kind == "histogram" and n in read):
        one = {}
        for sample in read[name].samples:
            if sample.name.endswith("_bucket"):
                key = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
                one.setdefault(key, []).append((sample.labels["le"], sample.value))
        for key, buckets in one.items():
            edges = [e if e == "+Inf" else str(float(e)) for e, _ in buckets]
            assert edges == BUCKETS, edges
            counts = [count for _, count in buckets]
            assert counts == sorted(counts), counts


def until(what, probe):
    end = time.time() + 60
    while not probe():
        assert time.time() < end, f"waited a minute for {what}\n" + get(f"http://{merged}/metrics")
        time.sleep(0.2)


# The connection is still open: what it moved is told all the same, by both sides.
page = lambda: families(f"http://{merged}/metrics")
for reporter in "source", "destination":
    who = dict(reporter=reporter, destination_service_name="echo")
    until(f"{reporter}'s bytes", lambda: total(page(), "istio_tcp_sent_bytes_total", **who) == 1000)
    read = page()
    assert total(read, "istio_tcp_received_bytes_total", **who) == 1000
    assert total(read, "istio_tcp_connections_opened_total", **who) == 1
    assert total(read, "istio_tcp_connections_closed_total", **who) == 0

read = page()
shape(read)
assert {*REQUESTS, *TCP} <= set(read), sorted(read)
for reporter, security in ("source", "unknown"), ("destination", "mutual_tls"):
    who = dict(reporter=reporter, source_workload="client", source_workload_namespace="default",
               source_principal="spiffe://cluster.local/ns/default/sa/client", source_cluster="Kubernetes",
               destination_workload="hello-v1", destination_workload_namespace="default",
               destination_principal="spiffe://cluster.local/ns/default/sa/hello",
               destination_service="hello.default.svc.cluster.local", destination_service_name="hello",
               destination_service_namespace="default", destination_cluster="Kubernetes",
               destination_canonical_service="hello", request_protocol="http", response_flags="-",
               connection_security_policy=security)
    assert total(read, "istio_requests_total", response_code="200", **who) == 5, (reporter, get(f"http://{merged}/metrics"))
    assert total(read, "istio_request_duration_milliseconds_count", **who) == 5
    assert total(read, "istio_response_bytes_sum", **who) > 0

# Each sidecar by itself, on Istio's ports.
for port in 15020, 15090:
    sidecars = listening(port)
    assert len(sidecars) == workloads, (port, sidecars)
    for sidecar in sidecars:
        shape(families(f"http://{sidecar}:{port}/stats/prometheus"))
for sidecar in listening(15021):
    assert get(f"http://{sidecar}:15021/healthz/ready") is not None
    try:
        get(f"http://{sidecar}:15021/stats")
        raise SystemExit("15021 shows more than readiness")
    except urllib.error.HTTPError as error:
        assert error.code == 404
assert len(listening(15021)) == workloads
print("all read")

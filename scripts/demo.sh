#!/usr/bin/env bash
# `make demo`: builds ripstop and runs the mesh of examples/shop until Ctrl-C.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

scripts/prerequisites.sh demo
say "building ripstop (the first time takes some minutes)"
cargo build --profile quick --package ripstop
say "starting examples/shop; Ctrl-C stops it"
exec target/quick/ripstop up examples/shop/mesh.yaml --top --dashboard 0 "$@"

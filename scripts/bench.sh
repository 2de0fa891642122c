#!/usr/bin/env bash
# `make bench`: builds the release binary, measures, and prints. It asserts nothing.
#
#   scripts/bench.sh [binary] [http] [tcp] [connect] [memory] [trace]    some sections only
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

scripts/prerequisites.sh bench
say "building the release binary (fat LTO: some minutes)"
cargo build --release --package ripstop
exec cargo xtask bench "$@"

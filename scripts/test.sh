#!/usr/bin/env bash
# `make test`: every check, all of them even when one fails, then one line for each and a non-zero end if any failed.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
# shellcheck source=scripts/lib.sh
. scripts/lib.sh

scripts/prerequisites.sh "${1:-test}" || exit 1
export PATH=$PWD/.venv/bin:$PATH

names=() results=() failed=0
step() {
  local name=$1 start=$SECONDS
  shift
  say "$name: $*"
  if "$@"; then
    results+=("ok      $((SECONDS - start)) s")
  else
    results+=("FAILED  $((SECONDS - start)) s")
    failed=1
  fi
  names+=("$name")
}

step format cargo fmt --all --check
step tidy cargo xtask tidy
step licences cargo deny check licenses bans sources
step lint cargo clippy --workspace --all-targets --quiet -- -D warnings
step tests cargo test --workspace --no-fail-fast
step optimised cargo build --profile quick --package ripstop
step instructions cargo xtask instructions
[ "${1:-}" != long ] || step mutants cargo xtask mutants
[ "${1:-}" != long ] || step long cargo test --package ripstop --package ripstop-host --no-fail-fast --features ripstop/long,ripstop-host/long

printf '\n'
for i in "${!names[@]}"; do printf '%-10s %s\n' "${names[$i]}" "${results[$i]}"; done
if [ $failed -ne 0 ]; then
  printf 'make test: FAILED\n'
  exit 1
fi
printf 'make test: ok\n'

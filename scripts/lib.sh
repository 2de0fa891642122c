# shellcheck shell=bash
# What the scripts share. Sourced, never run.

# Debian keeps nft and ip where an ordinary user's PATH does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
if ! command -v cargo >/dev/null && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
  PATH=${CARGO_HOME:-$HOME/.cargo}/bin:$PATH
fi
export PATH

say() { printf '%s\n' "== $*"; }
die() { printf '%s\n' "error: $*" >&2; exit 1; }

# found NAME: is there such a command, or such a file when NAME is a path?
found() {
  case $1 in
    /*) [ -e "$1" ] ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# install_packages NAME...: with apt, as root or with sudo. Servers among them are not started: the tests start
# their own, in namespaces of their own.
install_packages() {
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    found sudo || die "missing Debian packages. As root, run: apt-get install -y --no-install-recommends $*"
    as_root=(sudo)
  fi
  found apt-get || die "missing: $*. This is not a Debian machine; install what these packages hold."
  say "installing Debian packages: $*"
  local policy=/usr/sbin/policy-rc.d placed=no
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
    "${as_root[@]}" chmod 755 $policy
    placed=yes
  fi
  local status=0 log
  log=$(mktemp)
  { "${as_root[@]}" apt-get update -qq -o DPkg::Lock::Timeout=120 &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=120 --no-install-recommends "$@"; } >"$log" 2>&1 || status=$?
  [ $placed = no ] || "${as_root[@]}" rm -f $policy
  if [ $status -ne 0 ]; then
    tail -n 20 "$log" >&2
    rm -f "$log"
    die "apt-get could not install: $*"
  fi
  rm -f "$log"
}

# shellcheck shell=bash disable=SC2034
# Sourced by every script of the lab: where things are, and how to fail.
vm=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$vm")
cache=${UBLK_TS_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/ublk-ts}

self=$(realpath --relative-to="$root" "$0")

say() { echo "$self: $*" >&2; }
die() { say "$@"; exit 1; }

# Names the command at which `set -e` ends a script.
set -E
gave_up() { # STATUS FILE LINE COMMAND
  [[ $- != *e* || $BASH_SUBSHELL != 0 ]] || say "ends at line $3 of ${2##*/}, where this ended with status $1: ${4%%$'\n'*}"
}
trap 'gave_up $? "${BASH_SOURCE[0]}" "$LINENO" "$BASH_COMMAND"' ERR

# Whether the tests can use this machine's own kernel.
# Not where it would crash (scripts/kernel-crashes).
own_kernel() { [ "$(id -u)" = 0 ] && [ -e /dev/ublk-control ] && ! "$root/scripts/kernel-crashes" >/dev/null; }

# need COMMAND...: fails with the list of those that are missing.
need() {
  local missing=() c PATH=$PATH:/usr/sbin:/sbin
  for c in "$@"; do command -v "$c" >/dev/null || missing+=("$c"); done
  [ ${#missing[@]} = 0 ] || die "missing: ${missing[*]} (scripts/setup installs what the lab needs)"
}

# Rust is pinned by rust-toolchain.toml. Where rustup lacks it by that name, and has the same version by another, such as
# stable, that is used: not every machine can download one.
pinned_rust() {
  local wanted other
  wanted=$(sed -n 's/^channel = "\(.*\)"/\1/p' "$root/rust-toolchain.toml")
  [ -z "${RUSTUP_TOOLCHAIN-}" ] && command -v rustup >/dev/null && ! rustup run "$wanted" rustc --version >/dev/null 2>&1 || return 0
  for other in $(rustup toolchain list --quiet); do
    [ "$(rustup run "$other" rustc --version 2>/dev/null | cut -d' ' -f2)" != "$wanted" ] || { export RUSTUP_TOOLCHAIN=$other; return 0; }
  done
}

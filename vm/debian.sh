# shellcheck shell=bash disable=SC2154
# Sourced: takes packages from any Debian suite without touching the system's own apt sources. Each suite has a
# private apt root in the cache; apt checks the suite's signature and every package's hash as always.

debian_mirror() {
  local found=${UBLK_TS_DEBIAN_MIRROR:-}
  if [ -z "$found" ] && grep -qx 'ID=debian' /etc/os-release; then
    found=$(cat /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list 2>/dev/null |
      sed -n 's/^URIs: *\([^ ]*\).*/\1/p; s/^deb  *\(\[[^]]*\] *\)\?\([^ ]*\).*/\2/p' | head -n 1) || true
  fi
  [ -n "$found" ] || die "no Debian mirror in this system's apt sources; set UBLK_TS_DEBIAN_MIRROR to one"
  echo "$found"
}

# debian SUITE apt-get|apt-cache ARG...
debian() {
  local suite=$1 tool=$2 dir=$cache/apt/$1 mirror; shift 2
  if [ ! -e "$dir/sources.list" ]; then
    mirror=$(debian_mirror); [[ $suite != *-security ]] || mirror=${mirror%/}-security
    mkdir -p "$dir"/{lists,archives}/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$dir/sources.list"
  fi
  "$tool" -qq -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$dir/lists" \
    -o Dir::State::status=/dev/null -o "Dir::Cache=$dir" -o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
}

# debian_update SUITE: fetches the suite's index, unless that was done in the last hour.
debian_update() {
  local stamp=$cache/apt/$1/updated
  [ -z "$(find "$stamp" -mmin -60 2>/dev/null)" ] || return 0
  debian "$1" apt-get update >&2 && touch "$stamp"
}

# debian_unpack SUITE DIR PACKAGE...: downloads and unpacks the packages below DIR.
debian_unpack() {
  local suite=$1 dir=$2 tmp deb; shift 2
  mkdir -p "$dir"; tmp=$(mktemp -d "$dir/debs.XXXXXX")
  (cd "$tmp" && debian "$suite" apt-get download "$@" >&2) || { rm -rf "$tmp"; return 1; }
  for deb in "$tmp"/*.deb; do dpkg-deb -x "$deb" "$dir" || { rm -rf "$tmp"; return 1; }; done
  rm -rf "$tmp"
}

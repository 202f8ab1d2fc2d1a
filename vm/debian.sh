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

# The architecture whose packages are taken, as Debian calls it.
debian_arch=amd64
debian_dir() { local suffix=-$debian_arch; echo "$cache/apt/$1${suffix#-amd64}"; }

# debian SUITE apt-get|apt-cache ARG...
debian() {
  local suite=$1 tool=$2 dir mirror; shift 2
  dir=$(debian_dir "$suite")
  if [ ! -e "$dir/sources.list" ]; then
    mirror=$(debian_mirror); [[ $suite != *-security ]] || mirror=${mirror%/}-security
    mkdir -p "$dir"/{lists,archives}/partial
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$dir/sources.list"
  fi
  "$tool" -qq -o "Dir::Etc::sourcelist=$dir/sources.list" -o Dir::Etc::sourceparts=- -o "Dir::State::lists=$dir/lists" \
    -o Dir::State::status=/dev/null -o "APT::Architecture=$debian_arch" \
    -o "APT::Architectures=$debian_arch" -o "Dir::Cache=$dir" -o Acquire::Languages=none -o APT::Sandbox::User=root "$@"
}

# debian_update SUITE: fetches the suite's index, unless that was done in the last hour.
debian_update() {
  local stamp; stamp=$(debian_dir "$1")/updated
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

# bare_root DIR: the directories that every root file system has.
bare_root() {
  local part
  mkdir -p "$1"/{dev,proc,sys,run,tmp,mnt,root,etc,usr/{bin,sbin,lib}}
  for part in bin sbin lib; do ln -s "usr/$part" "$1/$part"; done
}

# debian_root SUITE DIR PACKAGE...: the same with all that the packages need; a file tree in which their programs run. No
# script of a package is run, since its programs may be another architecture's: what those would have made is missing.
debian_root() {
  local suite=$1 dir=$2 debs part; shift 2
  bare_root "$dir"
  debs=$(mktemp -d "$dir/debs.XXXXXX"); mkdir "$debs/partial"
  debian "$suite" apt-get install -y --download-only --no-install-recommends -o "Dir::Cache::archives=$debs" "$@" >&2 ||
    { rm -rf "$debs"; return 1; }
  for part in "$debs"/*.deb; do dpkg-deb --fsys-tarfile "$part" | tar -x -C "$dir" --keep-directory-symlink; done
  rm -rf "$debs"
  ! [ -d "$dir/usr/share/base-passwd" ] || for part in passwd group; do
    cp "$dir/usr/share/base-passwd/$part.master" "$dir/etc/$part"; done
}

# shellcheck shell=bash disable=SC2154,SC2317
# Sourced by vm/run: boots a stock Debian kernel in QEMU without KVM, on the host's file tree by way of virtiofs, or
# on a root file system of another architecture.

# share TAG DIR ro|rw CACHE: a virtiofsd in a mount namespace of its own, on a bind mount: read-only is the host's doing.
share() {
  local tag=$1 try
  mkdir -p "$work/$tag"
  # shellcheck disable=SC2016  # for the inner bash
  setpriv --pdeathsig KILL unshare --mount --propagation private bash -c 'mount --bind "$1" "$2" && mount -o "remount,bind,$3" "$2" &&
    exec /usr/lib/qemu/virtiofsd --socket-path="$2.socket" -o source="$2",cache="$4"' _ "$2" "$work/$tag" "$3" "$4" \
    >"$work/$tag.log" 2>&1 &
  daemons+=($!); disown
  for try in {1..200}; do [ ! -S "$work/$tag.socket" ] || break; sleep 0.03; done
  [ -S "$work/$tag.socket" ] || { cat "$work/$tag.log" >&2; die "virtiofsd did not start"; }
  devices+=(-chardev "socket,id=$tag,path=$work/$tag.socket" -device "vhost-user-fs-pci,chardev=$tag,tag=$tag,queue-size=1024")
}

attempt() { # boots once; $work/up gets a line when the command starts, and another with its status
  local qemu=$1 kernel=$2 name=${2##*/} port out_pid err_pid arguments machine
  daemons=() devices=()
  rm -f "$work"/{stdout,stderr,up,dmesg,console}; mkfifo "$work/stdout" "$work/stderr"; : >"$work/up"; : >"$work/console"
  cat "$work/stdout" & out_pid=$!
  cat "$work/stderr" >&2 & err_pid=$!
  share host / ro always
  [ -z "$out" ] || share out "$out" rw auto
  for port in stdout stderr up dmesg; do
    devices+=(-chardev "file,id=$port,path=$work/$port" -device "virtserialport,chardev=$port,name=$port"); done
  arguments="quiet panic=-1 printk.devkmsg=on module.sig_enforce=1 mitigations=off cryptomgr.notests audit=0
    random.trust_cpu=on nokaslr lab.vm=$vm lab.work=$work lab.root=$base lab.modules=$kernel/modules/lib/modules/$name"
  case $arch in
    # The system's own QEMU 7.2 may run this: its cmpxchg16b is not to be trusted.
    x64) machine=(-M pc -bios qboot.rom -cpu "max,-cx16") arguments+=' console=ttyS0 no_timer_check tsc=reliable lpj=5000000';;
    arm64) machine=(-M virt -cpu cortex-a72) arguments+=' console=ttyAMA0';;
  esac
  TMPDIR=$work setsid setpriv --pdeathsig KILL "$qemu" "${machine[@]}" -accel tcg,thread=multi,tb-size=512 \
    -smp "$cpus" -m "$memory" -object "memory-backend-memfd,id=ram,size=$memory,share=on" -machine memory-backend=ram \
    -nodefaults -no-user-config -display none -no-reboot -serial "file:$work/console" \
    -kernel "$kernel/vmlinux" -initrd "$kernel/initrd" -append "${arguments//$'\n'/ }" \
    -device virtio-serial-pci "${devices[@]}" </dev/null >"$work/qemu.log" 2>&1 &
  vm_pid=$!
  halt() { kill -KILL "$vm_pid" "${daemons[@]}"; }
  for port in {1..480}; do [ ! -s "$work/up" ] || break; kill -0 "$vm_pid" 2>/dev/null || break; sleep 0.25; done
  [ -s "$work/up" ] || halt 2>/dev/null || true
  wait_for "$vm_pid" $((limit + 60))
  : <>"$work/stdout" <>"$work/stderr"  # frees a cat whose pipe QEMU never opened
  wait "$out_pid" "$err_pid" || true
  halt 2>/dev/null || true
}

boot() {
  local qemu kernel_dir try
  [ "$(id -u)" = 0 ] || die "QEMU needs root here"
  need setpriv unshare /usr/lib/qemu/virtiofsd
  qemu=$("$vm/qemu/emulator" "$arch") || exit 125
  kernel_dir=$("$vm/qemu/kernel" "$kernel" "$arch") || exit 125
  for try in 1 2 3; do
    attempt "$qemu" "$kernel_dir"
    [ ! -s "$work/up" ] || break
    say "attempt $try to boot ${kernel_dir##*/} failed: $(tail -n 3 "$work/qemu.log" "$work/console" | tr '\n\r' '  ')"
  done
  sed -n 2p "$work/up" >"$work/status"
  if [ -s "$work/dmesg" ]; then mv "$work/dmesg" "$work/log"; else mv "$work/console" "$work/log"; fi
}

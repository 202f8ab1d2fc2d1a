# shellcheck shell=bash disable=SC2154,SC2317
# Sourced by vm/run: boots User-Mode Linux, whose root is the host's own file tree (see init).

# place: puts this machine on as many CPUs of the host as it has itself, wherever they are. It keeps to the first of those
# that it may use, and so would all machines with fewer than there are.
place() {
  local spare=$(($(nproc) - cpus)) allowed at
  [ "$spare" -gt 0 ] || return 0
  mapfile -t allowed < <(taskset -pc $$ | sed 's/.*: //' | tr , '\n' | while IFS=- read -r from to; do seq "$from" "${to:-$from}"; done)
  at=$(shuf -n 1 -i 0-"$spare")
  taskset -pc "$(IFS=,; echo "${allowed[*]:at:cpus}")" $$ >/dev/null
}

# allow_mappings: each page that a process of the guest touches can be a mapping of the host's process behind it. Past the
# host's limit a touch never succeeds, and is tried for ever. Many distributions have 1048576 instead of the kernel's 65530.
max_map_count=/proc/sys/vm/max_map_count
allow_mappings() {
  local pages=$(($(numfmt --from=iec "$memory") / 4096 + 65530))
  [ "$pages" -ge 1048576 ] || pages=1048576
  [ "$(cat "$max_map_count")" -lt "$pages" ] || return 0
  if { echo "$pages" >"$max_map_count"; } 2>/dev/null; then
    say "raised this machine's vm.max_map_count to $pages"
  else
    few_mappings="vm.max_map_count is $(cat "$max_map_count"): a process that touches much memory may hang; let it be $pages"
  fi
}

boot() {
  local kernel memory_dir out_pid err_pid log_pid
  kernel=$("$vm/uml/build") || exit 125
  place
  allow_mappings
  # The guest's memory is a sparse file, which must be in RAM and may be larger than a container's /dev/shm.
  memory_dir=/dev/shm
  [ "$(df --output=avail -B1 /dev/shm | tail -n 1)" -ge "$(numfmt --from=iec "$memory")" ] || memory_dir=$work
  # The cats keep the kernel from putting the caller's terminal into raw mode.
  exec 3> >(exec cat); out_pid=$!
  exec 4> >(exec cat >&2); err_pid=$!
  exec 5> >(exec cat >"$work/log" 2>&1); log_pid=$!
  # A panic signals the whole process group: hence setsid. pdeathsig: no machine is left behind, whatever happens.
  TMPDIR=$memory_dir setsid setpriv --pdeathsig KILL "$kernel" "mem=$memory" "ncpus=$cpus" seccomp=on hostpin \
    rootfstype=hostfs rootflags=/ rw "init=$vm/uml/init" "LAB=$work" "uml_dir=$work/" umid=u \
    con=null con0=null,fd:5 con1=null,fd:3 con2=null,fd:4 console=tty0 printk.devkmsg=on \
    panic=-1 oops=panic null_blk.nr_devices=0 nbd.nbds_max=4 </dev/null >&5 2>&1 &
  vm_pid=$!
  exec 3>&- 4>&- 5>&-
  halt() { kill -KILL -- "-$vm_pid"; }
  wait_for "$vm_pid" $((limit + 20))
  halt 2>/dev/null || true  # what may be left of its processes
  wait "$out_pid" "$err_pid" "$log_pid" || true
}

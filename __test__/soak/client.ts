import { setTimeout as sleep } from 'node:timers/promises'
import { result, shell } from '../support/program.js'
import { count } from './tally.js'
import { Broken, stacks } from './trouble.js'

/** What a disk's users touch while its size changes, in bytes; in chunks of 64 KiB. */
export const ALWAYS = 4 * 2 ** 20
const CHUNKS = ALWAYS / 2 ** 16

/**
 * In a directory with `expected`, what the disk is to hold, and `torn`, the chunks of which that is not known: a write
 * has failed, or was cut off.
 */
const FUNCTIONS = `
disk=$1 rounds=$3 RANDOM=$4; cd "$2"; : >errors
failed() { echo "$1: $(tail -n 1 said)" >>errors; }
# A disk that goes, or changes its size, ends a read early.
whole_of() { [ $(stat -c %s $1) = $2 ] || { echo "$(stat -c %s $1) bytes, not $2" >said; failed size; return 1; }; }
# Reads and writes of known contents.
chunks() {
  exec 5<"$disk" || { failed open; return; }
  for ((round = 0; round < rounds; round++)); do
    at=$((RANDOM % ${CHUNKS}))
    if ((RANDOM % 2)); then
      head -c 65536 /dev/urandom >new
      echo $at >>torn
      dd if=new of="$disk" bs=64k seek=$at conv=notrunc,nocreat oflag=direct status=none 2>said || { failed write; continue; }
      dd if=new of=expected bs=64k seek=$at conv=notrunc status=none
      sed -i "/^$at\\$/d" torn
    else
      dd if="$disk" of=got bs=64k skip=$at count=1 iflag=direct status=none 2>said || { failed read; continue; }
      whole_of got 65536 || continue
      grep -qx $at torn || cmp -s <(dd if=expected bs=64k skip=$at count=1 status=none) got || { echo "chunk $at is wrong"; exit 9; }
    fi
  done
}
# The whole disk, but for what is torn.
whole() {
  local size=$(stat -c %s expected) # both may grow
  dd if="$disk" of=got bs=1M iflag=direct status=none 2>said || { failed read; return; }
  whole_of got $size || return
  for at in $(sort -un torn); do dd if=expected of=got bs=64k skip=$at seek=$at count=1 conv=notrunc status=none; done
  cmp -n $size expected got || exit 9
}
tear() { seq 0 $(($(stat -c %s expected) / 65536 - 1)) >torn; }
# Many requests at once.
deep() {
  tear
  fio --name=x --filename="$disk" --direct=1 --ioengine=libaio --iodepth=16 --rw=randwrite --bs=4k --size=2m --allow_file_create=0 \
    --verify=crc32c --verify_fatal=1 --randrepeat=0 --verify_state_save=0 --output=said 2>&1 || failed fio
  ! grep -E 'verify:|crc32c: ' said || exit 9
}
# A file system.
files() {
  tear
  { mkfs.ext4 -qF "$disk" && mount "$disk" mnt; } 2>said || { failed mount; return; }
  trap 'umount mnt 2>/dev/null || umount -l mnt' EXIT
  { head -c $((RANDOM * 50)) /dev/urandom >mnt/file && sync -f mnt/file && sha256sum <mnt/file >sum; } 2>said || { failed files; return; }
  trap - EXIT
  { umount mnt && mount "$disk" mnt; } 2>said || { failed again; umount -l mnt 2>/dev/null || :; return; }
  sha256sum <mnt/file >again 2>said || failed file
  umount mnt
  [ -s errors ] || cmp sum again || exit 9
}
`

export type Use = 'chunks' | 'whole' | 'deep' | 'files'

/** A process that uses a disk. */
export class Client {
  readonly use: Use
  /** Fulfilled when it has ended. */
  readonly ended: Promise<void>
  /** Requests that failed. */
  readonly errors: string[] = []
  over = false

  constructor(use: Use, disk: string, dir: string, rounds: number, seed: number) {
    this.use = use
    const child = shell(`${FUNCTIONS}\n${use}\ncat errors`, disk, dir, `${rounds}`, `${seed}`)
    this.ended = result(child).then(({ status, signal, stdout, stderr }) => {
      this.over = true
      count(`client: ${use}`)
      if (status !== 0) throw new Broken(`client ${use}: ${signal ?? `status ${status}`}: ${stderr}${stdout}`)
      this.errors.push(...stdout.split('\n').filter(line => line !== ''))
    })
    this.ended.catch(() => {})
  }

  /** Waits for its end, for at most this many milliseconds. */
  async end(bound: number): Promise<void> {
    const late = await Promise.race([this.ended, sleep(bound, 'late', { ref: false })])
    if (late) throw new Broken(`client ${this.use} still runs after ${bound / 1000} s`, stacks())
  }
}

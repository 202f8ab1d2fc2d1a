/**
 * Several systems from one image: each has a disk of its own over it, mounts that as its root, and runs the image's
 * `/sbin/init` as process 1 of its own namespaces. What they write is in memory, and gone with them.
 *
 *     node boot-clones.js base.img 4
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtemp, rmdir } from 'node:fs/promises'
import { file, overlay, UblkDevice } from 'ublk-ts'

const [image = 'base.img', count = '4'] = process.argv.slice(2)

/** The mounts are in a namespace of their own, which ends with its last process. */
const SCRIPT = `mount "$1" "$2"
  mount -t proc proc "$2/proc"
  echo "$3" >/proc/sys/kernel/hostname
  exec chroot "$2" /sbin/init`

async function boot(name: string): Promise<void> {
  await using disk = await UblkDevice.create({ backend: overlay(file(image)) })
  const root = await mkdtemp('/tmp/root-')
  try {
    const namespaces = ['--mount', '--pid', '--uts', '--fork', '--kill-child']
    const words = [...namespaces, 'sh', '-euc', SCRIPT, 'sh', disk.path, root, name]
    const [status] = await once(spawn('unshare', words, { stdio: 'inherit' }), 'exit')
    if (status !== 0) throw new Error(`${name} ended with status ${status}`)
  } finally {
    await rmdir(root)
  }
}

await Promise.all(Array.from({ length: Number(count) }, (_, index) => boot(`clone-${index + 1}`)))

import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import test from 'ava'
import { Machine } from '../../dist/cli/checks/machine.js'
import { ownDiskCheck, type ServedDisk } from '../../dist/cli/checks/own-disk.js'

const root = mkdtempSync(join(tmpdir(), 'ublk-ts-itself-'))
test.after.always(() => rmSync(root, { recursive: true }))
mkdirSync(join(root, 'proc/self'), { recursive: true })
writeFileSync(
  join(root, 'proc/swaps'),
  'Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/ublkb1p2                               partition\t1\t\t0\t\t-2\n',
)
writeFileSync(
  join(root, 'proc/self/mounts'),
  '/dev/vda1 / ext4 rw 0 0\n/dev/ublkb3 /data\\040x ext4 rw 0 0\n/dev/ublkb4 /run ext4 rw 0 0\ntmpfs /run tmpfs rw 0 0\n',
)
const machine = new Machine(root, '7.0', 0)

const disk = (id: number, more: Partial<ServedDisk> = {}): ServedDisk => ({
  ...{
    id,
    log: `/run/ublk-ts/${id}.log`,
    notes: {},
    options: { backend: { kind: 'file', path: '/disk.img' } },
  },
  ...more,
})

/** The warnings about these disks. */
const said = async (...served: ServedDisk[]): Promise<string> =>
  (await ownDiskCheck(machine, served, '/run/ublk-ts'))?.detail ?? ''

test('a server that can be swapped out to its own disk is warned of, unless its memory is locked', async t => {
  t.regex(await said(disk(0), disk(1)), /^\/dev\/ublkb1 has swap on it, and its server can be swapped out/)
  t.is(await said(disk(1, { notes: { mlock: true } })), '')
  t.is(await said(disk(0), disk(11)), '')
})

test('a server that has files on its own disk is warned of', async t => {
  t.regex(await said(disk(3, { log: '/data x/log' })), /server of \/dev\/ublkb3 uses \/data x\/log/)
  const module = { backend: { kind: 'worker', url: 'file:///data%20x/disk.js' } }
  t.regex(await said(disk(3, { options: module })), /uses \/data x\/disk\.js/)
  const below = { kind: 'slice', disk: { kind: 'file', path: '/data x/part' }, offset: 0 }
  const stack = { backend: { kind: 'concat', disks: [{ kind: 'null', size: 512 }, below] } }
  t.regex(await said(disk(3, { options: stack })), /uses \/data x\/part/)
  t.is(await said(disk(3, { log: '/data xy/log' }), disk(2, { log: '/data x/log' })), '')
  t.is(await said(disk(4)), '', 'what was mounted over is out of the way')
})

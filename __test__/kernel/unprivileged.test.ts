import { once } from 'node:events'
import type { Readable } from 'node:stream'
import test from 'ava'
import { leaveNothingBehind, nodes } from '../support/devices.js'
import { FLAGS, type Result, result, run, sh, spawnAs } from '../support/program.js'
import { Server } from '../support/server.js'
import { inLab, Systemd } from '../support/systemd.js'

leaveNothingBehind(test)
const withUdev = inLab ? test : test.skip

let systemd: Systemd
if (inLab) {
  test.before('udev has our rules, and of two users, alice is in the group ublk', async () => {
    systemd = await Systemd.boot()
    await sh('for user in alice bob; do id $user >&2 || useradd --create-home $user; done')
    await sh('usermod --append --groups ublk alice')
  })
  test.after.always(async () => await systemd?.halt())
}

const as = async (user: string, script: string, ...args: string[]): Promise<Result> =>
  await result(spawnAs(user, 'bash', '-euo', 'pipefail', '-c', script, 'bash', ...args))

const owner = async (path: string): Promise<string> => await sh('stat --format "%U %G %a" "$1"', path)

withUdev('a user formats, writes, reads and deletes a disk without root', async t => {
  const server = await Server.startAs('alice', '--mem 64M')
  t.is(await owner(server.path), 'alice alice 600\n')
  t.is(await owner(`/dev/ublkc${server.id}`), 'alice alice 600\n')
  const script = `
    mkfs.ext4 -q "$1"; fsck.ext4 -fn "$1" >&2
    head -c 1M /dev/urandom >~/data
    dd if=~/data of="$1" bs=64K seek=100 conv=fsync status=none
    dd if="$1" bs=64K skip=100 count=16 iflag=direct status=none | cmp - ~/data`
  t.like(await as('alice', script, server.path), { status: 0, stdout: '' })
  t.like(await run.as('alice', 'delete', server.path), { status: 0, stdout: '', stderr: '' })
  t.is((await server.ended).status, 0)
  t.deepEqual(nodes(), [])
})

withUdev('a user deletes a disk that is in use by force', async t => {
  const server = await Server.startAs('alice', '--mem 16M')
  const holder = spawnAs('alice', 'bash', '-c', 'exec 3<"$1"; echo held; exec sleep 60', 'bash', server.path)
  await once(holder.stdout as Readable, 'data')
  t.regex((await run.as('alice', 'delete', server.path)).stderr, /is in use: open by/)
  t.like(await run.as('alice', 'delete', '--force', server.path), { status: 0, stdout: '', stderr: '' })
  t.is((await server.ended).status, 0)
  holder.kill()
  await once(holder, 'exit')
  t.deepEqual(nodes(), [])
})

withUdev("a user's forced deletions at the same time leave no device behind", async t => {
  const text = `
    import { nullDisk, UblkDevice } from 'ublk-ts'
    const disks = []
    while (disks.length < 16) disks.push(await UblkDevice.create({ backend: nullDisk('16M') }))
    await Promise.all(disks.map(disk => disk.delete({ force: true })))
    console.log((await UblkDevice.list()).length)
  `
  const words = [...FLAGS, '--input-type=module', '--eval', text]
  const { stdout, stderr } = await result(spawnAs('alice', process.execPath, ...words))
  t.is(stdout, '0\n', stderr)
  t.is(await sh('ls /sys/class/ublk-char'), '')
})

withUdev("another user cannot use a user's disk, not even one who was given its node", async t => {
  await sh('usermod --append --groups ublk bob')
  t.teardown(() => sh('gpasswd --delete bob ublk'))
  const server = await Server.startAs('alice', '--mem 16M')
  const read = 'dd if="$1" of=/dev/null count=1'
  t.regex((await as('bob', read, server.path)).stderr, /Permission denied/)
  await sh('chmod 666 "$1"', server.path)
  t.regex((await as('bob', read, server.path)).stderr, /Operation not permitted/)
  for (const words of [['delete', '--force'], ['stop', '--force'], ['show']]) {
    const { status, stdout, stderr } = await run.as('bob', ...words, server.path)
    t.is(status, 1)
    t.is(stdout, '')
    t.regex(stderr, /^ublk-ts: [^\n]*EACCES[^\n]*\n$/)
  }
  t.is(await sh('blockdev --getsize64 "$1"', server.path), '16777216\n')
  t.is((await server.interrupt()).status, 0)
})

withUdev('a disk stays its maker’s when udev looks at it again', async t => {
  const server = await Server.startAs('alice', '--mem 16M')
  await systemd.sh('udevadm trigger --action=change --settle "$1"', server.path)
  t.is(await owner(server.path), 'alice alice 600\n')
  t.is((await server.interrupt()).status, 0)
})

withUdev("root's disks stay root's", async t => {
  await Server.with('--mem 16M', async ({ path, id }) => {
    await systemd.sh('udevadm settle')
    t.is(await owner(path), 'root disk 660\n')
    t.is(await owner(`/dev/ublkc${id}`), 'root root 600\n')
  })
})

withUdev('a user outside the group gets an error that says so', async t => {
  const { status, stdout, stderr } = await run.as('bob', 'create', '--mem', '16M')
  t.is(status, 1)
  t.is(stdout, '')
  t.regex(stderr, /^ublk-ts: [^\n]*Permission denied[^\n]*docs\/operations\.md\n$/)
})

withUdev("how a user's disk can be served is a matter of rights, which is told", async t => {
  await sh('truncate -s 16M ~alice/disk; chown alice ~alice/disk')
  const server = await Server.startAs('alice', '--file /home/alice/disk --json')
  const [row] = JSON.parse(server.line).ublkdevices
  t.like(row, { copy: 'copy', 'copy-why': 'all that is possible without CAP_SYS_ADMIN' })
  t.is((await server.interrupt()).status, 0)
  for (const words of ['--file /home/alice/disk --copy zero', '--mem 16M --copy user']) {
    const { status, stdout, stderr } = await run.as('alice', 'create', ...words.split(' '))
    t.deepEqual([status, stdout], [1, ''])
    t.regex(stderr, /^ublk-ts: copy \w+ is not possible: it takes CAP_SYS_ADMIN; [^\n]+\n$/)
  }
  const { choices } = JSON.parse((await run.as('alice', 'features', '--json')).stdout)
  t.true(choices.every(({ copy }: { copy: string }) => copy === 'copy'))
})

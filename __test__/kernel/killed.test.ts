// processors: 2
import { setTimeout as sleep } from 'node:timers/promises'
import test from 'ava'
import { leaveNothingBehind, nodes } from '../support/devices.js'
import { result, run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNothingBehind(test)

const FIO =
  'cd /tmp; exec fio --name=x --filename="$1" --direct=1 --ioengine=libaio --iodepth=32 --bs=4k --time_based --runtime=60 --output-format=terse'

for (const mode of ['randread', 'randwrite']) {
  test(`a server killed under ${mode} takes its disk along, and leaves what can be deleted`, async t => {
    const server = await Server.start('--mem 64M --queues 2')
    const client = result(shell(`${FIO} --rw=${mode}`, server.path))
    await sleep(1500)
    t.regex((await run('list', '-n', '-o', 'state')).stdout, /^live/)
    server.signal('SIGKILL')
    const began = performance.now()
    t.is((await server.ended).signal, 'SIGKILL')
    t.not((await client).status, 0, 'its client gets errors')
    await until(() => !nodes().includes(`ublkb${server.id}`), 'the disk goes away')
    t.true(performance.now() - began < 10_000)

    t.deepEqual(nodes(), [`ublkc${server.id}`])
    t.is(
      (await run('list', '-n', '-o', 'id,state,pid')).stdout.trim().replaceAll(/ +/g, ' '),
      `${server.id} dead`,
    )
    const doctor = await run('doctor')
    t.is(doctor.status, 0, doctor.stdout)
    t.regex(
      doctor.stdout,
      new RegExp(`^warn  leftovers .*device ${server.id} has no server.*ublk-ts delete ${server.id}`, 'm'),
    )

    await Server.with('--mem 16M', async other => {
      t.not(other.id, server.id)
      t.is(await sh('blockdev --getsize64 "$1"', other.path), '16777216\n')
    })
    t.deepEqual(await run('delete', `${server.id}`), { status: 0, signal: null, stdout: '', stderr: '' })
    t.deepEqual(nodes(), [])
  })
}

test('a server killed while its disk is mounted leaves a mount that fails and can be unmounted', async t => {
  const server = await Server.start('--mem 16M')
  await sh('mkfs.ext4 -q "$1"; mkdir -p /tmp/m; mount "$1" /tmp/m; echo x >/tmp/m/x', server.path)
  await server.interrupt('SIGKILL')
  await until(() => !nodes().includes(`ublkb${server.id}`), 'the disk goes away')
  await t.throwsAsync(sh('echo y >/tmp/m/y; sync -f /tmp/m/y'))
  await sh('umount /tmp/m')
  t.is((await run('delete', server.path)).status, 0)
})

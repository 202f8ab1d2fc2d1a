import { once } from 'node:events'
import { readFileSync, writeFileSync } from 'node:fs'
import type { Readable } from 'node:stream'
import test from 'ava'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { MAIN, result, run, sh, shell } from '../support/program.js'
import { Server } from '../support/server.js'

leaveNoServerBehind(test)

/** Runs `ublk-ts` in a PID namespace of its own, with or without its own /proc; returns status and output. */
async function inNamespace(flags: string, ...words: string[]): Promise<string> {
  const script = `unshare --pid --fork ${flags} "$@" 2>&1 || echo "status $?"`
  return await sh(script, process.execPath, MAIN, ...words)
}

test('a listing says what each disk is', async t => {
  await sh('truncate -s 16M /tmp/listed')
  const file = await Detached.create('--file /tmp/listed')
  const memory = await Detached.create('--mem 16M')
  const program = await Server.program(`
    import { nullDisk, UblkDevice } from 'ublk-ts'
    console.log((await UblkDevice.create({ backend: nullDisk('16M') })).path)
  `)
  const { ublkdevices } = JSON.parse((await run('list', '--json')).stdout)
  const of = ({ id }: { id: number }) => ublkdevices.find((row: { id: number }) => row.id === id)
  t.like(of(file), { backend: 'file', source: '/tmp/listed', state: 'live' })
  t.is(of(memory).backend, 'memory')
  t.regex(of(memory).source, /^\/dev\/shm\//)
  t.like(of(program), { backend: null, source: null })
  t.regex(of(program).server, /node.*UblkDevice\.create/s)
  t.regex((await run('list')).stdout, /^ID .* BACKEND +SOURCE\n(?:.*\n)*.*file +\/tmp\/listed\n/)
  t.regex((await run('show', file.path)).stdout, /^SOURCE +\/tmp\/listed$/m)
  const [shown, missing] = [await run('show', `${file.id}`, '77'), /device 77/]
  t.regex(shown.stdout, /^SOURCE +\/tmp\/listed$/m)
  t.is(shown.status, 1)
  t.regex(shown.stderr, missing)
  await run('delete', file.path, memory.path, program.path)
  program.signal('SIGTERM')
  await program.ended
})

test('disks are found by their file, by whatever path, and deleted together unless they are in use', async t => {
  await sh('truncate -s 16M /tmp/found; ln -sf found /tmp/link; mkdir -p /mnt/found')
  const [file, part, memory] = [
    await Detached.create('--file /tmp/found --offset 0 --sizelimit 8M'),
    await Detached.create(
      '--backend {"kind":"slice","disk":{"kind":"file","path":"/tmp/found","exclusive":false},"offset":8388608}',
    ),
    await Detached.create('--mem 16M'),
  ]
  const found = async (...words: string[]): Promise<string[]> => {
    const { stdout, stderr } = await run('list', '-n', '-o', 'path', ...words)
    t.is(stderr, '', `${words}`)
    return stdout.split('\n').filter(line => line !== '')
  }
  t.deepEqual(await found('--file', '/tmp/link'), [file.path, part.path].toSorted())
  t.deepEqual(await found('--backend', 'memory'), [memory.path])
  t.deepEqual(await found('--state', 'dead'), [])
  const all = ['delete', '--all', '--file', '/tmp/found']
  t.like(await run(...all, '--dry-run'), {
    status: 0,
    stdout: `${[file.path, part.path].toSorted().join('\n')}\n`,
  })
  t.is((await found()).length, 3)
  await sh('mkfs.ext4 -q "$1"; mount "$1" /mnt/found', part.path)
  const { status, stderr } = await run(...all)
  t.is(status, 1)
  t.regex(stderr, new RegExp(`^ublk-ts: ${part.path} is in use: mounted on /mnt/found`))
  t.deepEqual(await found(), [part.path, memory.path].toSorted())
  await sh('umount /mnt/found')
  t.like(await run('delete', '--all'), { status: 0, stdout: '', stderr: '' })
  t.like(await run('delete', '--all'), { status: 0, stdout: '', stderr: '' })
})

test('delete --all leaves alone what took the number of a disk that it chose', async t => {
  const [held, replaced] = [await Detached.create('--mem 1M'), await Detached.create('--mem 1M')]
  const holder = shell('exec 3<"$1"; echo open; exec sleep 100', held.path)
  await once(holder.stdout as Readable, 'data')
  const deletion = shell('exec "$1" "$2" delete --all --wait', process.execPath, MAIN)
  const [waits, ended] = [once(deletion.stderr as Readable, 'data'), result(deletion)]
  await waits
  await run('delete', replaced.path)
  t.is((await run('create', '--detach', '--id', `${replaced.id}`, '--mem', '2M')).status, 0)
  holder.kill()
  t.is((await ended).status, 0)
  t.is((await run('list', '-n', '-o', 'path')).stdout, `${replaced.path}\n`)
  await run('delete', replaced.path)
})

test('list and recover agree on a server in another PID namespace', async t => {
  const disk = await Detached.create('--null 16M')
  for (const flags of ['--mount-proc', '']) {
    t.regex(await inNamespace(flags, 'list', '-n', '-o', 'state,alive'), /^live +1\n$/)
    t.regex(
      await inNamespace(flags, 'recover', `${disk.id}`),
      /is served by a process that is not visible from here;.*\nstatus 1\n$/,
    )
  }
  t.is((await run('delete', disk.path)).status, 0)
})

const SWITCH = '/proc/sys/kernel/io_uring_disabled'

test('where io_uring is switched off, the servers that have it are asked', async t => {
  const disk = await Detached.create('--null 16M')
  const other = await Detached.create('--null 16M')
  const before = readFileSync(SWITCH, 'utf8')
  writeFileSync(SWITCH, '2')
  try {
    t.regex((await run('list', '-n', '-o', 'state,size')).stdout, /^live +16M\nlive +16M\n$/)
    for (const words of [['show'], ['stats'], ['delete']]) {
      const { status, stderr } = await run(...words, `${disk.id}`)
      t.is(status, 0, `${words}: ${stderr}`)
    }
    t.is((await run('delete', '--force', `${other.id}`)).status, 0)
  } finally {
    writeFileSync(SWITCH, before)
  }
})

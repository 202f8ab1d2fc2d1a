// seconds: 60
/**
 * Servers that fail by themselves: a queue that cannot be served any more, an exception that nobody catches, a thread
 * without memory. A disk that was made with `recovery` is left to the next server, which finds its bytes; others go.
 */
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import test, { type ExecutionContext } from 'ava'
import { UblkDevice } from 'ublk-ts'
import { Detached, gone, leaveNoServerBehind, leftovers } from '../support/detached.js'
import { nodes } from '../support/devices.js'
import { result, run, sh, shell } from '../support/program.js'
import { Server, until } from '../support/server.js'

leaveNoServerBehind(test)

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const IN_FILE = new URL('../backends/in-file.js', import.meta.url)
const SIZE = 2 ** 20

/** A disk in a file, whose Worker ends at a read while there is a file `broken`, as long as which no other can be loaded. */
const BREAKING = `
import { existsSync } from 'node:fs'
import inFile from '${IN_FILE}'
export default options => {
  const broken = () => existsSync(options.path + '.broken')
  if (broken()) throw new Error('out of order')
  const disk = inFile(options)
  return {
    ...disk,
    read(request, into) {
      if (broken()) process.exit(3)
      return disk.read(request, into)
    },
  }
}`

/** The file, and module and options that serve it. */
async function made(t: ExecutionContext): Promise<{ path: string; module: string; options: string }> {
  const dir = mkdtempSync('/dev/shm/failed-')
  t.teardown(() => rmSync(dir, { recursive: true }))
  const [path, module] = [`${dir}/disk`, `${dir}/module.mjs`]
  writeFileSync(module, BREAKING)
  writeFileSync(path, Buffer.alloc(SIZE, 'a'))
  return { path, module, options: JSON.stringify({ path, size: SIZE }) }
}

const READ = 'dd if="$1" bs=4k count=1 skip=2 iflag=direct status=none | tr -d a | wc -c'

/** Breaks a served disk, whose user waits, and returns what mends it and what its user finds then. */
function broken(path: string, disk: string): { mend: () => void; read: ReturnType<typeof result> } {
  writeFileSync(`${path}.broken`, '')
  return { mend: () => rmSync(`${path}.broken`), read: result(shell(READ, disk)) }
}

const state = async (id: number): Promise<string> => (await (await UblkDevice.open(id)).info()).state

/** Has another process serve a disk that was left, and removes it. */
async function servedOn(t: ExecutionContext, id: number, read?: ReturnType<typeof result>): Promise<void> {
  const path = `/dev/ublkb${id}`
  t.deepEqual(await run('recover', '--detach', path), { ...SILENT, stdout: `${path}\n` })
  t.deepEqual(await read, read && { ...SILENT, stdout: '0\n' })
  t.is(await sh(READ, path), '0\n')
  t.deepEqual(await run('delete', path), SILENT)
}

test('a server in the foreground that fails says so, and the disk waits for another', async t => {
  const { path, module, options } = await made(t)
  const words = `--worker ${module} --worker-options ${options} --no-partition-scan`
  const server = await Server.start(`${words} --recovery reissue`)
  const { mend, read } = broken(path, server.path)
  const { status, stderr } = await server.ended
  t.is(status, 1)
  const last = `ublk-ts: ${server.path} has no server: [^\\n]+; ublk-ts recover ${server.id}\\n$`
  t.regex(stderr, new RegExp(last))
  t.is(await state(server.id), 'quiesced')
  mend()
  await servedOn(t, server.id, read)

  const other = await Server.start(words)
  const failing = broken(path, other.path)
  t.not((await failing.read).status, 0)
  t.like(await other.ended, { status: 1 })
  t.deepEqual([nodes(), leftovers()], [[], []])
})

test('a server in the background that fails leaves its disk, and a supervisor replaces it', async t => {
  for (const more of ['', ' --auto-restart']) {
    const { path, module, options } = await made(t)
    const disk = await Detached.create(
      `--worker ${module} --worker-options ${options} --no-partition-scan --recovery reissue${more}`,
    )
    const { pid, id } = disk
    const { mend, read } = broken(path, disk.path)
    await gone(pid)
    t.is(await state(id), 'quiesced')
    const said = (pattern: RegExp): boolean => disk.log.some(({ message }) => pattern.test(message))
    t.true(said(new RegExp(`^/dev/ublkb${id} has no server: .+; ublk-ts recover ${id}$`)))
    mend()
    if (more === '') {
      await servedOn(t, id, read)
      continue
    }
    t.deepEqual(await read, { ...SILENT, stdout: '0\n' })
    await until(() => disk.pid !== pid, 'another server')
    t.true(said(/^the server of device \d+ died \(status 1\)$/))
    t.deepEqual(await run('delete', disk.path), SILENT)
  }
})

/** The beginning of a program with a disk that has a record. */
const CREATE = `
import { file, memory, UblkDevice, worker } from 'ublk-ts'
const disk = await UblkDevice.create({ recovery: 'reissue', record: true, partitionScan: false, backend: `

const FAILURES = {
  'an exception that nobody catches': `throw new Error('a bug')`,
  'a promise that nobody catches': `void Promise.reject(new Error('a bug'))`,
  'an exit with another status than 0': 'process.exit(4)',
}

for (const [at, [how, failure]] of Object.entries(FAILURES).entries()) {
  test(`a process that fails leaves its recoverable disks to the next server: ${how}`, async t => {
    const { path, module, options } = await made(t)
    const backend = at === 0 ? `file('${path}')` : `worker('file://${module}', ${options})`
    const server = await Server.program(`${CREATE}${backend} })
      const own = { size: ${SIZE}, read: (_, into) => void into.fill(97) }
      const object = await UblkDevice.create({ recovery: 'reissue', partitionScan: false, backend: own })
      const other = await UblkDevice.create({ partitionScan: false, backend: memory(${SIZE}) })
      process.once('SIGUSR2', () => { ${failure} })
      console.log([disk.id, object.id, other.id].join(' '))`)
    const [id, object, other] = server.line.split(' ').map(Number) as [number, number, number]
    t.true(((await server.interrupt('SIGUSR2')).status ?? 0) > 0)
    t.deepEqual([await state(id), await state(object)], ['quiesced', 'quiesced'])
    await t.throwsAsync(UblkDevice.open(other), { message: /there is no ublk device/ })
    t.deepEqual(await run('delete', `${object}`), SILENT)
    await servedOn(t, id)
  })
}

test('a process that ends because it was asked to removes its disks, recoverable ones too', async t => {
  const { path } = await made(t)
  const server = await Server.program(`${CREATE}file('${path}') })
    process.once('SIGUSR2', () => process.exit())
    console.log(disk.path)`)
  t.is((await server.interrupt('SIGUSR2')).status, 0)
  t.deepEqual([nodes(), leftovers()], [[], []])
})

for (const how of ['terminated', 'out of memory'] as const) {
  test(`a Worker that fails leaves its disk, though its process goes on: ${how}`, async t => {
    const { path } = await made(t)
    // Where the package is found.
    const program = fileURLToPath(new URL(`../failed-${how.replaceAll(' ', '-')}.mjs`, import.meta.url))
    t.teardown(() => rmSync(program))
    writeFileSync(
      program,
      `import { parentPort } from 'node:worker_threads'
      ${CREATE}file('${path}') })
      const kept = []
      parentPort.once('message', () => { for (;;) kept.push(new Array(1e5).fill(kept.length)) })
      parentPort.postMessage(disk.id)`,
    )
    const thread = new Worker(program, { resourceLimits: { maxOldGenerationSizeMb: 64 } })
    thread.on('error', () => {})
    const exit = new Promise(resolve => thread.once('exit', resolve))
    const [id] = (await once(thread, 'message')) as [number]
    if (how === 'terminated') await thread.terminate()
    else thread.postMessage('go')
    await exit
    t.is(await state(id), 'quiesced')
    await servedOn(t, id)
  })
}

/** A program that lives on after its disk is served no more, and says what became of it. */
const LIVES_ON = `
const say = what => () => console.log(what)
for (const name of ['quiesced', 'released', 'live']) disk.on(name, say(name))
disk.on('error', () => {})
disk.on('exit', ({ waits }) => console.log('exit ' + waits))
process.on('SIGUSR2', () => disk.release())
process.on('SIGHUP', () => disk.quiesce())
process.on('SIGCONT', () => disk.resume())
setInterval(() => {}, 1000)
console.log(disk.path)`

test('a program hears that its disk waits, and leaves it to another while it lives on', async t => {
  const { path, module, options } = await made(t)
  const server = await Server.program(`${CREATE}worker('file://${module}', ${options}) })${LIVES_ON}`)
  const disk = new Detached(server.path)
  t.is(disk.pid, server.pid)
  const said = async (what: string): Promise<void> =>
    await until(() => server.stdout.endsWith(`\n${what}\n`), what).catch((error: Error) => {
      throw new Error(`${error.message}, after: ${server.stdout}${server.stderr}`)
    })
  let { mend, read } = broken(path, server.path)
  await said('exit true')
  t.is(disk.pid, 0)
  // It may serve the disk again.
  mend()
  server.signal('SIGCONT')
  await said('live')
  t.deepEqual(await read, { ...SILENT, stdout: '0\n' })
  t.is(disk.pid, server.pid)
  t.regex((await run('recover', disk.path)).stderr, new RegExp(`is served by process ${server.pid}`))

  ;({ mend, read } = broken(path, server.path))
  await said('exit true')
  mend()
  // Another may serve it, whether it was released or not.
  t.deepEqual(await run('recover', '--detach', disk.path), { ...SILENT, stdout: `${disk.path}\n` })
  t.deepEqual(await read, { ...SILENT, stdout: '0\n' })
  const { pid } = disk
  server.signal('SIGUSR2')
  await said('released')
  t.is((await server.interrupt('SIGTERM')).signal, 'SIGTERM')
  t.is(disk.pid, pid)
  t.deepEqual(await run('delete', disk.path), SILENT)
})

test('a disk that its program has released can be recovered while that lives on', async t => {
  const { path } = await made(t)
  const server = await Server.program(`${CREATE}file('${path}') })${LIVES_ON}`)
  server.signal('SIGHUP')
  await until(() => server.stdout.endsWith('\nquiesced\n'), 'it is quiesced')
  t.regex((await run('recover', server.path)).stderr, new RegExp(`is served by process ${server.pid}`))
  server.signal('SIGUSR2')
  await until(() => server.stdout.endsWith('\nreleased\n'), 'it is released')
  const disk = new Detached(server.path)
  t.is(disk.pid, 0)
  const found = JSON.parse((await run('show', '--json', disk.path)).stdout).ublkdevices[0]
  t.like(found, { state: 'quiesced' })
  await servedOn(t, disk.id)
  t.is((await server.interrupt('SIGTERM')).signal, 'SIGTERM')
})

/**
 * Serves disks of every kind with the package that is installed here, and has fio verify them. Run by scripts/test-platform in a
 * machine that may have another architecture or C library than the one that this was compiled on, and few programs: so it
 * needs nothing but Node, fio and the package.
 *
 * usage: serve.js ARCH LIBC   fails if it runs on anything else
 */
import { execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { release, tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { type Backend, file, memory, UblkDevice, worker } from 'ublk-ts'
import { memoryDisk, type Options } from '../backends/memory.js'
import { fioJobs, MEBIBYTES } from '../support/fio-jobs.js'

const [arch, libc] = process.argv.slice(2)
const dir = mkdtempSync(join(tmpdir(), 'platform-'))
const started = performance.now()
const say = (what: string): void =>
  void process.stdout.write(`platform: ${what} (${Math.round((performance.now() - started) / 1000)} s)\n`)
const wrong = (what: string): never => {
  throw new Error(what)
}

function checkPlatform(): void {
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } }
  const here = `${process.arch} ${header.glibcVersionRuntime === undefined ? 'musl' : 'gnu'}`
  if (here !== `${arch} ${libc}`) wrong(`this is ${here}`)
  const native = Object.keys(createRequire(import.meta.url).cache).filter(name => name.endsWith('.node'))
  const wanted = `@ublk-ts/linux-${arch}-${libc}/ublk-ts.linux-${arch}-${libc}.node`
  if (native.length !== 1 || !native[0]?.endsWith(wanted)) wrong(`loaded ${native}, not ${wanted}`)
  say(`Linux ${release()}, Node ${process.version}, ${here}, ${native}`)
}

/** Sequential and random writes, one at a time and many; all of it checked. */
async function verify(path: string, ...jobs: string[]): Promise<void> {
  const file = join(dir, 'jobs')
  writeFileSync(file, fioJobs())
  const only = jobs.map(job => `--section=${job}`)
  await promisify(execFile)('fio', [`--filename=${path}`, '--output-format=terse', ...only, file])
}

function nothingLeft(): void {
  const left = readdirSync('/dev').filter(name => /^ublk[bc]\d/.test(name))
  if (left.length > 0) wrong(`left behind: ${left}`)
}

async function serve(what: string, backend: Backend, queues = 1): Promise<void> {
  const disk = await UblkDevice.create({ backend, queues })
  const errors: string[] = []
  disk.on('error', ({ message }) => errors.push(message))
  try {
    await verify(disk.path, 'sequential-1', 'random-16')
  } finally {
    await disk.delete({ force: true })
  }
  if (errors.length > 0) wrong(`${what}: ${errors}`)
  nothingLeft()
  say(`${what}: ok`)
}

/** `ublk-ts create`, until Ctrl-C. */
async function commandLine(): Promise<void> {
  const main = fileURLToPath(new URL('bin/ublk-ts.cjs', import.meta.resolve('ublk-ts')))
  const child = spawn(process.execPath, [main, 'create', '--mem', `${MEBIBYTES}M`], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(child, 'close')
  const path = await Promise.race([
    once(child.stdout, 'data').then(([line]) => String(line).trim()),
    ended.then(([status]) => wrong(`ublk-ts create ended with ${status}`)),
  ])
  await verify(path, 'random-16')
  child.kill('SIGINT')
  const [status] = await ended
  if (status !== 0) wrong(`after Ctrl-C ublk-ts create ended with ${status}`)
  for (let i = 0; i < 50 && existsSync(path); i++) await sleep(100)
  nothingLeft()
  say('ublk-ts create: ok')
}

try {
  checkPlatform()
  const bytes = MEBIBYTES * 2 ** 20
  await serve('memory', memory(bytes), 2)
  const image = join(dir, 'image')
  writeFileSync(image, '')
  truncateSync(image, bytes)
  await serve('file', file(image))
  const module = new URL('../backends/memory.js', import.meta.url)
  for (const form of ['sync', 'async batch'] as const) {
    const options: Options = { bytes: new SharedArrayBuffer(bytes), form }
    await serve(`${form} methods in a Worker`, worker(module, options))
  }
  await serve('a plain object', memoryDisk(new Uint8Array(bytes), 'sync'))
  await commandLine()
  say('all ok')
} finally {
  rmSync(dir, { recursive: true })
}

// usage: consumer.mjs [--loads NAME] [KIND...]
//
// What scripts/release/rehearse runs in a project that has installed ublk-ts: writes random data to a disk of each kind
// (default: memory, lazy, inline, worker), reads it back past the page cache, and prints a word on each. With --import it only
// loads the native part. With --loads the native part has to be the one whose file begins so.
import { execFile } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { open } from 'node:fs/promises'
import { promisify } from 'node:util'
import { features, lazy, memory, UblkDevice, UblkError, worker } from 'ublk-ts'

const SIZE = 2 ** 24
const run = promisify(execFile)

const kinds = {
  memory: () => memory(SIZE),
  lazy: () => lazy({ size: SIZE, fetch: ({ length }) => new Uint8Array(length).fill(65) }),
  inline: () => {
    const bytes = new Uint8Array(SIZE)
    return {
      size: SIZE,
      read: (request, into) => into.set(bytes.subarray(request.offset, request.offset + request.length)),
      write: (request, from) => bytes.set(from, request.offset),
    }
  },
  worker: () => worker(new URL('./disk.mjs', import.meta.url), { size: SIZE }),
}

/** Another process does it: this one may be the disk's server. */
async function verify(path) {
  const data = `/tmp/consumer-${process.pid}`
  const file = await open(data, 'w')
  await file.write(randomBytes(2 ** 20))
  await file.close()
  await run('dd', [`if=${data}`, `of=${path}`, 'bs=64k', 'seek=16', 'oflag=direct', 'conv=notrunc'])
  await run('sh', [
    '-c',
    'dd if="$0" bs=64k skip=16 count=16 iflag=direct | cmp - "$1" && rm "$1"',
    path,
    data,
  ])
}

async function serve(kind) {
  const disk = await UblkDevice.create({ backend: kinds[kind]() })
  try {
    await verify(disk.path)
  } finally {
    await disk.delete({ wait: true })
  }
  return `${kind} ok`
}

const wanted = process.argv.slice(2)
const said = []
if (wanted[0] === '--loads') {
  const [, name] = wanted.splice(0, 2)
  const files = process.report.getReport().sharedObjects.filter(file => file.endsWith('.node'))
  const right = files.length === 1 && files[0].includes(`/${name}.`)
  said.push(right ? `${name} ok` : `loaded ${files.map(file => file.replace(/.*\//, ''))}`)
}
if (wanted[0] === '--import') {
  const found = await features().catch(error => error)
  if (found instanceof UblkError && found.kind !== 'no-driver' && found.kind !== 'no-permission') throw found
  said.push('import ok')
}
for (const kind of wanted[0] === '--import' ? [] : wanted.length > 0 ? wanted : Object.keys(kinds)) {
  said.push(await serve(kind).catch(error => `${kind}: ${error.kind ?? error.name}: ${error.message}`))
}
process.stdout.write(`${said.join('; ').replaceAll(/\s+/g, ' ').trim()}\n`)
process.exitCode = said.every(word => word.endsWith(' ok')) ? 0 : 1

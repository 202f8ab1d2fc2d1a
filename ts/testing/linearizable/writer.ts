/** A writer of checks: a thread that reads and writes the disk, one operation after the other. */
import { closeSync, constants, fdatasyncSync, openSync, readSync, writeSync } from 'node:fs'
import { parentPort } from 'node:worker_threads'
import { inOneLine } from '../../user-values.js'
import { BlockContent } from './block-content.js'
import { now, pages } from './direct-io.js'
import type { DiskOperation } from './history.js'
import { BEGIN, DONE, FIRST_WRITE, type FromWriter, GO, type WriterData, type Written } from './job.js'
import { LONGEST, Load } from './load.js'

const say = (message: FromWriter): void => parentPort?.postMessage(message)

parentPort?.on('message', (data: WriterData) => {
  say('ready')
  say(work(data))
})

function work(data: WriterData): Written {
  const { path, offset, blockSize, blocks, writer, writers, shared } = data
  const history: DiskOperation[] = []
  const content = new BlockContent(blockSize, data.salt)
  const load = new Load(blocks, data.seed)
  const memory = pages(LONGEST * blockSize)
  const disk = openSync(path, constants.O_RDWR | constants.O_DIRECT)
  const by = `writer ${writer}`
  let [failed, error]: [number, string | undefined] = [0, undefined]
  let id = FIRST_WRITE + 1 + writer
  Atomics.wait(shared, BEGIN, 0)
  const until = now() + (Atomics.load(shared, BEGIN) === GO ? data.milliseconds : 0)
  for (let left = data.operations; left > 0 && now() < until; left--) {
    const { op, block, count } = load.next()
    const bytes = new DataView(memory, 0, count * blockSize)
    const place = offset + block * blockSize
    if (op === 'write') content.fill(bytes, block, id)
    else new Uint8Array(memory).fill(0xff) // What a read leaves as it was is not taken for an answer.
    let outcome: 'ok' | 'failed' = 'ok'
    const start = now()
    try {
      if (op === 'flush') fdatasyncSync(disk)
      else {
        const [from, length] = [0, bytes.byteLength]
        const moved =
          op === 'read'
            ? readSync(disk, bytes, from, length, place)
            : writeSync(disk, bytes, from, length, place)
        if (moved !== length) throw new Error(`${moved} bytes instead of ${length}`)
      }
    } catch (failure) {
      outcome = 'failed'
      failed++
      error ??= inOneLine(failure)
    }
    const end = now()
    Atomics.add(shared, DONE, 1)
    if (op === 'flush' || (op === 'read' && outcome === 'failed')) continue
    const values = Array.from({ length: count }, (_, at) =>
      op === 'write' ? id : content.read(new DataView(memory, at * blockSize, blockSize), block + at),
    )
    history.push({ op, block, values, start, end, outcome, by })
    if (op === 'write') id += writers
  }
  closeSync(disk)
  return { history, failed, error }
}

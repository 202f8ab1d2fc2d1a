#!/usr/bin/env node
// What begins the program: dist/bin/ublk-ts.cjs. scripts/bundle.mjs says in it how the part beside it is called that is next. It
// loads parts as `require` does, but with what V8 made of them before: to compile them is half of the work of a short command.
//
// That is kept beside them, as Python keeps its own: who may write there may change the program, too.
import fs = require('node:fs')
import path = require('node:path')
import vm = require('node:vm')

/** The first part, which loads the others. */
const START = './start.cjs'

/** V8 forgets code that has not run for a while. And a server should write nothing: this file might be on its own disk. */
const LONGEST_RUN_S = 5

/** So many words are remembered for each part; wrong ones count, too. */
const MOST_WORDS = 100

/** A part that was loaded, and the words for which it was compiled. */
interface Part {
  readonly file: string
  readonly script: vm.Script
  readonly words: readonly string[]
}

/** Not that of node:module, which brings others. */
const Module = module.constructor as new (file: string, parent: NodeModule) => NodeModule
const parts: Part[] = []
const word = /^[a-z]+$/.exec(process.argv[2] ?? '')?.[0] ?? '-'

// On SIGUSR1, which is often sent to have logs reopened, Node opens a debugger to every user of the machine. With a listener
// it does not. Workers receive no signals.
process.on('SIGUSR1', () => {})
process.on('exit', keep)
try {
  load(START)
} catch (error) {
  const { code, message } = error as NodeJS.ErrnoException
  const why =
    code === 'EMFILE' || code === 'ENFILE' ? 'too few open files are allowed; raise `ulimit -n`' : message
  process.stderr.write(`ublk-ts: cannot load its files: ${why.split('\n', 1)[0]}\n`)
  process.exit(1)
}

function load(name: string): unknown {
  if (!name.startsWith('./')) return require(name)
  const file = path.join(__dirname, name)
  const known = require.cache[file]
  if (known) return known.exports
  const part = new Module(file, module)
  const text = fs.readFileSync(file, 'latin1') // It is ASCII.
  const kept = readKept(file)
  const script = new vm.Script(text, { filename: file, ...(kept && { cachedData: kept.code }) })
  parts.push({ file, script, words: script.cachedDataRejected === false ? (kept?.words ?? []) : [] })
  require.cache[file] = part
  try {
    script.runInThisContext()(part.exports, load, part, file, __dirname)
  } catch (error) {
    delete require.cache[file]
    throw error
  }
  return part.exports
}

/** Where the code of a part is kept. Its name has a hash of its text; V8 refuses what it made with other settings. */
function placeOf(file: string): string {
  return file.replace(/cjs$/, `${process.version}-${process.arch}.cache`)
}

function readKept(file: string): { words: string[]; code: Buffer } | undefined {
  if (process.env['NODE_DISABLE_COMPILE_CACHE']) return undefined
  try {
    const bytes = fs.readFileSync(placeOf(file))
    const end = bytes.indexOf('\n')
    const middle = (bytes.length + end + 1) / 2
    const code = bytes.subarray(end + 1, middle)
    if (end < 0 || !code.equals(bytes.subarray(middle))) return undefined
    return { words: bytes.toString('latin1', 0, end).split(' '), code }
  } catch {
    return undefined
  }
}

/** Keeps what was compiled, with that from before, if this command may have needed more than those before it. */
function keep(): void {
  if (process.env['NODE_DISABLE_COMPILE_CACHE'] || process.uptime() > LONGEST_RUN_S) return
  try {
    if (fs.statSync(__filename).uid !== process.geteuid?.()) return // Nothing of root's among a user's files.
    for (const { file, script, words } of parts) {
      if (words.includes(word) || words.length >= MOST_WORDS) continue
      replace(placeOf(file), `${[...words, word].join(' ')}\n`, script.createCachedData())
    }
  } catch {} // The place may be full, or not for writing.
}

/**
 * Others see all of it or nothing. The code is there twice, since V8 does not notice bytes that are wrong, such as those that a
 * power cut leaves: to sync the file would take longer, and to load a checksum, too.
 */
function replace(place: string, head: string, code: Uint8Array): void {
  // Not the number of the process: containers that share these files have the same ones.
  const next = `${place}.${Math.random().toString(36).slice(2)}`
  try {
    fs.writeFileSync(next, Buffer.concat([Buffer.from(head), code, code]), { flag: 'wx' })
    fs.renameSync(next, place)
  } catch (error) {
    fs.rmSync(next, { force: true })
    throw error
  }
}

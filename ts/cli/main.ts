#!/usr/bin/env node
import './signals.js' // first: what is imported is run in this order

// All else is loaded when what can go wrong with that is told in one line: a process may have few descriptors left.
const { run } = await import('./run.js').catch(notLoaded)
process.exit(await run(process.argv))

function notLoaded(error: unknown): never {
  const { code, message } = error as NodeJS.ErrnoException
  const why =
    code === 'EMFILE' || code === 'ENFILE' ? 'too few open files are allowed; raise `ulimit -n`' : message
  process.stderr.write(`ublk-ts: its files cannot be loaded: ${why.split('\n', 1)[0]}\n`)
  process.exit(1)
}

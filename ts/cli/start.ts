#!/usr/bin/env node
import './signals.js' // first: imports run in this order

void start()

// scripts/bundle.mjs makes the program, dist/bin/ublk-ts.cjs, of this module and all that it needs. The rest is imported
// dynamically, so that a failure is reported in one line: a process may have few descriptors left.
async function start(): Promise<void> {
  const { run } = await import('./run.js').catch(notLoaded)
  process.exit(await run(process.argv))
}

function notLoaded(error: unknown): never {
  const { code, message } = error as NodeJS.ErrnoException
  const why =
    code === 'EMFILE' || code === 'ENFILE' ? 'too few open files are allowed; raise `ulimit -n`' : message
  process.stderr.write(`ublk-ts: cannot load its files: ${why.split('\n', 1)[0]}\n`)
  process.exit(1)
}

#!/usr/bin/env node
import { CommanderError } from 'commander'
import { report } from './failure.js'
import { ignoreClosedStderr, print } from './output.js'
import { buildProgram } from './program.js'

// A bug ends the command too, but in one line like any failure.
process.on('uncaughtException', error => process.exit(report(error)))
ignoreClosedStderr()
process.exit(await run(process.argv))

async function run(argv: string[]): Promise<number> {
  let help = ''
  const program = buildProgram(text => {
    help += text
  })
  try {
    await program.parseAsync(argv).catch(error => {
      if (!(error instanceof CommanderError && error.exitCode === 0)) throw error
    })
    if (help !== '') await print(help)
    return Number(process.exitCode ?? 0)
  } catch (error) {
    return report(error)
  }
}

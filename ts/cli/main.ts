#!/usr/bin/env node
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { addCreate } from './create.js'
import { addDelete } from './delete.js'
import { addDoctor } from './doctor.js'
import { report } from './failure.js'
import { addFeatures } from './features.js'
import { addList } from './list.js'
import { ignoreClosedStderr, print } from './output.js'
import { addShow } from './show.js'
import { addStop } from './stop.js'

// A bug ends the command too, but in one line like any failure.
process.on('uncaughtException', error => process.exit(report(error)))
ignoreClosedStderr()
process.exit(await run(process.argv))

async function run(argv: string[]): Promise<number> {
  let help = ''
  const program = new Command('ublk-ts')
    .description('Linux block devices served from Node.js, through the ublk driver')
    .version(version())
    .exitOverride()
    .configureOutput({
      writeOut: text => {
        help += text
      },
      writeErr: () => {}, // What went wrong is reported below.
    })
    .addHelpText('after', '\nExample:\n  ublk-ts create --mem 16M')
  for (const add of [addCreate, addList, addShow, addStop, addDelete, addFeatures, addDoctor]) add(program)
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

function version(): string {
  const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'))
  return version
}

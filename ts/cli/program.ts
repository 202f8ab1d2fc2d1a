import { Command } from 'commander'
import { version } from '../version.js'
import { addApply } from './apply.js'
import { addChanged } from './changed.js'
import { addCheckpoint } from './checkpoint.js'
import { addCommit } from './commit.js'
import { addCompletion } from './completion.js'
import { addCrash } from './crash.js'
import { addCreate } from './create.js'
import { addDelete } from './delete.js'
import { addDiff } from './diff.js'
import { addDoctor } from './doctor.js'
import { addFault } from './fault.js'
import { addFeatures } from './features.js'
import { addFlatten } from './flatten.js'
import { addFork } from './fork.js'
import { addList } from './list.js'
import { addMetrics } from './metrics.js'
import { addPrefetch } from './prefetch.js'
import { addRecover } from './recover.js'
import { addReset } from './reset.js'
import { addResize } from './resize.js'
import { addRun } from './run-command.js'
import { addServe } from './serve-detached.js'
import { addShow } from './show.js'
import { addSnapshot } from './snapshot.js'
import { addStats } from './stats.js'
import { addStop } from './stop.js'
import { addTop } from './top.js'
import { addTrace } from './trace.js'
import { addOwner } from './udev-owner.js'
import { addUpgrade } from './upgrade.js'

const commands = [
  addCreate,
  addRun,
  addList,
  addShow,
  addResize,
  addSnapshot,
  addReset,
  addFork,
  addFlatten,
  addCommit,
  addPrefetch,
  addCheckpoint,
  addChanged,
  addDiff,
  addApply,
  addFault,
  addCrash,
  addRecover,
  addUpgrade,
  addStop,
  addDelete,
  addStats,
  addTop,
  addTrace,
  addMetrics,
  addFeatures,
  addDoctor,
  addCompletion,
  addOwner,
  addServe,
]

/**
 * Builds the whole command line. The manual page and completion are generated from it, too.
 * It prints nothing itself: `write` gets help texts, and errors are thrown.
 */
export function buildProgram(write: (help: string) => void = () => {}): Command {
  const program = new Command('ublk-ts')
    .description('Linux block devices served from Node.js, through the ublk driver')
    .version(version())
    .exitOverride()
    // What comes after a command is for that: also what comes after `--`.
    .enablePositionalOptions()
    .configureOutput({ writeOut: write, writeErr: () => {} })
    .addHelpText('after', '\nExample:\n  ublk-ts create --mem 16M')
  for (const add of commands) add(program)
  return program
}

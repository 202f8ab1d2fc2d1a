import type { Command } from 'commander'

/** Some commands, which are defined together: their names, and what adds them to the program. It is loaded when it is needed. */
interface Commands {
  readonly names: readonly string[]
  load(): Promise<(program: Command) => void>
}

/** All commands, in the order of the help. */
export const COMMANDS: readonly Commands[] = [
  { names: ['create'], load: async () => (await import('./create.js')).addCreate },
  { names: ['run'], load: async () => (await import('./run-command.js')).addRun },
  { names: ['list', 'ls'], load: async () => (await import('./list.js')).addList },
  { names: ['show'], load: async () => (await import('./show.js')).addShow },
  { names: ['resize'], load: async () => (await import('./resize.js')).addResize },
  { names: ['snapshot', 'snapshots'], load: async () => (await import('./snapshot.js')).addSnapshot },
  { names: ['reset'], load: async () => (await import('./reset.js')).addReset },
  { names: ['fork'], load: async () => (await import('./fork.js')).addFork },
  { names: ['flatten'], load: async () => (await import('./flatten.js')).addFlatten },
  { names: ['commit'], load: async () => (await import('./commit.js')).addCommit },
  { names: ['resync'], load: async () => (await import('./resync.js')).addResync },
  { names: ['move'], load: async () => (await import('./move.js')).addMove },
  { names: ['prefetch'], load: async () => (await import('./prefetch.js')).addPrefetch },
  {
    names: ['checkpoint', 'checkpoints'],
    load: async () => (await import('./checkpoint.js')).addCheckpoint,
  },
  { names: ['changed'], load: async () => (await import('./changed.js')).addChanged },
  { names: ['diff'], load: async () => (await import('./diff.js')).addDiff },
  { names: ['apply'], load: async () => (await import('./apply.js')).addApply },
  { names: ['fault'], load: async () => (await import('./fault.js')).addFault },
  { names: ['crash'], load: async () => (await import('./crash.js')).addCrash },
  { names: ['recover'], load: async () => (await import('./recover.js')).addRecover },
  { names: ['upgrade'], load: async () => (await import('./upgrade.js')).addUpgrade },
  { names: ['stop'], load: async () => (await import('./stop.js')).addStop },
  { names: ['delete', 'rm'], load: async () => (await import('./delete.js')).addDelete },
  { names: ['logs'], load: async () => (await import('./logs.js')).addLogs },
  { names: ['stats'], load: async () => (await import('./stats.js')).addStats },
  { names: ['top'], load: async () => (await import('./top.js')).addTop },
  { names: ['trace'], load: async () => (await import('./trace.js')).addTrace },
  { names: ['dashboard'], load: async () => (await import('./dashboard.js')).addDashboard },
  { names: ['metrics'], load: async () => (await import('./metrics.js')).addMetrics },
  { names: ['features'], load: async () => (await import('./features.js')).addFeatures },
  { names: ['doctor'], load: async () => (await import('./doctor.js')).addDoctor },
  { names: ['completion'], load: async () => (await import('./completion.js')).addCompletion },
  { names: ['owner'], load: async () => (await import('./udev-owner.js')).addOwner },
  { names: ['serve'], load: async () => (await import('./serve-detached.js')).addServe },
]

// What took part, and in which version.

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'

/** Versions by name: ours with its commit, the load's, and those of what is compared with. */
export function versionsOf(root, programs, nbd) {
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'))
  const commit = commitOf(root)
  return {
    'ublk-ts': commit ? `${version} (${commit})` : version,
    fio: say('fio', ['--version'])?.replace(/^fio-/, ''),
    ...Object.fromEntries(
      Object.entries(programs).flatMap(([name, { version }]) => (version ? [[name, version]] : [])),
    ),
    ...(nbd
      ? { nbdkit: number(say('nbdkit', ['--version'])), 'nbd-client': number(say('nbd-client', ['-V'])) }
      : {}),
  }
}

/** The commit of a tree, and whether it is changed; undefined outside of git. */
export function commitOf(root) {
  return say('git', ['-C', root, 'describe', '--always', '--dirty'])
}

/** The first line of what a program says, if it can be run. */
function say(program, args) {
  const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8' })
  return status === 0 ? `${stdout}${stderr}`.trim().split('\n')[0] : undefined
}

function number(text) {
  return text?.match(/\d+(\.\d+)+/)?.[0]
}

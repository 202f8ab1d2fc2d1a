import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import test from 'ava'
import { MemoryLimit } from '../../dist/daemon/memory-limit.js'

/** A machine with these files. */
function machine(files: { readonly [path: string]: string }): {
  root: string
  write: (path: string, text: string) => void
} {
  const root = mkdtempSync(join(tmpdir(), 'ublk-ts-memory-'))
  const write = (path: string, text: string): void => {
    mkdirSync(dirname(join(root, path)), { recursive: true })
    writeFileSync(join(root, path), text)
  }
  for (const [path, text] of Object.entries(files)) write(path, text)
  return { root, write }
}

test('the smallest limit on the way up is what a control group may have, and its kills are counted', t => {
  const { root, write } = machine({
    'proc/self/cgroup': '0::/system.slice/ublk-ts@0.service\n',
    'sys/fs/cgroup/system.slice/memory.max': `${160 * 2 ** 20}\n`,
    'sys/fs/cgroup/system.slice/ublk-ts@0.service/memory.max': 'max\n',
    'sys/fs/cgroup/system.slice/ublk-ts@0.service/memory.events':
      'low 0\nmax 7\noom 3\noom_kill 1\noom_group_kill 0\n',
  })
  const memory = new MemoryLimit(root)
  t.is(memory.describe(), 'its control group may have 160M')
  t.false(memory.hasKilled(), 'what was before does not count')
  write('sys/fs/cgroup/system.slice/ublk-ts@0.service/memory.events', 'oom 4\noom_kill 2\n')
  t.true(memory.hasKilled())
  t.false(memory.hasKilled())
  rmSync(root, { recursive: true })
})

test('so it is with the older kind of control groups', t => {
  const { root, write } = machine({
    'proc/self/cgroup': '5:cpu,cpuacct:/x\n4:memory:/box\n0::/box\n',
    'sys/fs/cgroup/memory/box/memory.limit_in_bytes': '1073741824\n',
    'sys/fs/cgroup/memory/box/memory.oom_control': 'oom_kill_disable 0\nunder_oom 0\noom_kill 0\n',
  })
  const memory = new MemoryLimit(root)
  t.is(memory.describe(), 'its control group may have 1G')
  write('sys/fs/cgroup/memory/box/memory.oom_control', 'oom_kill 1\n')
  t.true(memory.hasKilled())
  rmSync(root, { recursive: true })
})

test('without control groups nothing is said of them', t => {
  const machines: { [path: string]: string }[] = [
    {},
    { 'proc/self/cgroup': '0::/\n' },
    { 'proc/self/cgroup': 'nonsense\n' },
  ]
  for (const files of machines) {
    const { root } = machine(files)
    const memory = new MemoryLimit(root)
    t.is(memory.describe(), 'the machine has too little')
    t.false(memory.hasKilled())
    rmSync(root, { recursive: true })
  }
})

import { setTimeout as sleep } from 'node:timers/promises'
import { RUN_DIR } from '../support/detached.js'
import { list, openFiles, processes, text } from './trouble.js'

/** What is left of devices and their servers, once it had the time to go. */
export async function leftovers(bound: number): Promise<string[]> {
  const end = performance.now() + bound / 4
  for (;;) {
    const left = look()
    if (left.length === 0 || performance.now() > end) return left
    await sleep(200)
  }
}

function look(): string[] {
  const inDir = (dir: string, pattern: RegExp): string[] =>
    list(dir)
      .filter(name => pattern.test(name))
      .map(name => `${dir}/${name}`)
  return [
    ...inDir('/dev', /^ublk[bc]\d/),
    ...inDir('/sys/class/ublk-char', /./),
    ...inDir('/sys/block', /^ublk/),
    ...inDir(RUN_DIR, /./),
    ...inDir('/dev/shm', /./),
    ...text('/proc/mounts')
      .split('\n')
      .filter(line => /^\/dev\/ublkb| \/tmp\/churn-/.test(line)),
    ...openFiles('/dev/ublk'),
    ...processes()
      .filter(({ state, line }) => state === 'D' || /main\.js serve|^ublk-ts: /.test(line))
      .map(({ pid, state, line }) => `process ${pid} ${state} ${line}`),
    // The driver's users, where it is a module.
    ...[text('/sys/module/ublk_drv/refcnt').trim()]
      .filter(count => !['', '0'].includes(count))
      .map(count => `${count} references to the driver`),
  ]
}

/** What the machine has left, and what the kernel holds, in MiB. */
export function memory(): string {
  const meminfo = text('/proc/meminfo')
  const fields = ['MemAvailable', 'SUnreclaim', 'SReclaimable', 'KernelStack', 'PageTables', 'Shmem']
  return fields
    .map(name => {
      const kib = Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(meminfo)?.[1])
      return `${name} ${(kib / 1024).toFixed(1)}`
    })
    .join(', ')
}

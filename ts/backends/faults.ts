import { checkDisk } from './below.js'
import { checkPlan, nativeRules } from './check-faults.js'
import type { ProfileName } from './fault-profiles.js'
import type { FaultPlan, FaultRule } from './fault-rules.js'
import { parseFaultRule } from './fault-text.js'
import type { Described, Kind } from './kind.js'
import type { NativeBackend } from './list.js'

/** A disk that goes wrong where rules say so; see {@link faults}. */
export interface FaultsBackend {
  readonly kind: 'faults'
  /** The disk that has the data. */
  readonly disk: Described
  readonly rules: readonly FaultRule[]
  readonly profile?: ProfileName
  readonly seed?: number
}

/**
 * A disk that goes wrong where rules say so: requests fail, take their time, hang, or are answered and not done. For tests of
 * file systems, databases and whatever else must survive that. {@link UblkDevice.faults} changes the rules while the disk is
 * in use, and counts what they did; {@link UblkDevice.trace} names the rules that were applied to each request.
 *
 * The rules are applied from the moment that the disk is usable. Reads of udev, and of newer kernels, which look for partitions
 * then, count: the latter can be avoided with `partitionScan: false`. The rules are looked at in order: each `delay`, `rate` and `iops` adds its time, and of the other
 * effects, the first that hits a request decides. The same rules, seed and order of requests give the same faults.
 *
 * The disk has a write cache, even if the one below has none: without, the kernel would send no flush.
 *
 * Requests that hang keep their programs waiting, in a way that no signal ends, until {@link DiskFaults.thaw}, or until the
 * disk is deleted by force (they fail with EIO), or its server ends. If another server takes the disk over, they are
 * served first; the next server begins with the rules that the disk was created with.
 *
 * Without rules, a request costs one more load from memory. Zero copy goes on, except with a rule that corrupts: such a disk is
 * served with copies, and one that is served without them refuses that rule.
 *
 * @param disk - A native backend. In a stack, one disk can have faults: it can be below others, such as one leg of a stripe.
 * @param plan - The rules; a list, or with a `profile` or a `seed`. Default: none, to be set later.
 * @throws UblkError of kind `invalid` if a rule makes no sense; the message names it by its place in the list, from 0.
 *
 * @example
 * ```ts
 * const disk = await UblkDevice.create({
 *   backend: faults(memory('64M'), [{ op: 'write', nth: 3, errno: 'ENOSPC' }]),
 * })
 * await disk.faults.set([{ op: 'flush', hang: true, times: 1 }])
 * // … the next flush hangs …
 * await disk.faults.thaw()
 * ```
 *
 * @example
 * ```ts
 * const slow = faults(file('disk.img'), { profile: 'hdd-7200' })
 * ```
 */
export function faults(disk: NativeBackend, plan?: readonly FaultRule[] | FaultPlan): FaultsBackend {
  checkDisk(disk, 'faults()')
  const { rules = [], profile, seed } = checkPlan(plan, 'faults()')
  return {
    kind: 'faults',
    disk,
    rules,
    ...(profile === undefined ? {} : { profile }),
    ...(seed === undefined ? {} : { seed }),
  }
}

/** See {@link faults}. */
export const faultsKind: Kind<FaultsBackend> = {
  name: 'faults',
  native: true,
  stackable: true,
  transparent: true,
  check: ({ kind: _, disk, ...plan }) => faults(disk as NativeBackend, plan),
  below: ({ disk }) => [disk],
  withBelow: (backend, [disk]) => ({ ...backend, disk: disk as Described }),
  sameSize: true,
  toNative: ({ disk, seed = 0, ...plan }) => ({ disk, rules: nativeRules(plan), seed }),
  label: ({ rules, profile }) => {
    const count = rules.length === 1 ? '1 rule' : `${rules.length} rules`
    return profile === undefined ? count : rules.length === 0 ? profile : `${count}, ${profile}`
  },
  commandLine: {
    more: [
      {
        flags: '--fault <rule>',
        summary:
          'what goes wrong, such as op=write,nth=3,errno=EIO; may be given several times: see ublk-ts fault',
        parse: (text, earlier) => [...((earlier as FaultRule[] | undefined) ?? []), parseFaultRule(text)],
      },
      {
        flags: '--profile <name>',
        summary:
          'take the time that such a device takes: hdd-7200, ssd-sata-consumer, nvme-plp or cloud-volume',
      },
      {
        flags: '--seed <number>',
        summary: 'of --fault and --profile: determines what is drawn (default: 0)',
        parse: text => (/^\d+$/.test(text) ? Number(text) : text),
      },
    ],
    over: {
      main: [
        '--mem',
        '--null',
        '--file',
        '--lazy',
        '--qcow2',
        '--concat',
        '--stripe',
        '--upper',
        '--backend',
      ],
      make: (disk, { fault, profile, seed }) =>
        faults(disk as NativeBackend, {
          rules: fault as FaultRule[] | undefined,
          profile: profile as ProfileName | undefined,
          seed: seed as number | undefined,
        }),
    },
  },
}

import { release } from 'node:os'
import { UblkError } from './errors.js'

/** What is known to be wrong with the ublk driver of a kernel. */
export interface KernelFault {
  /** What happens there, as the end of a sentence about "this one". */
  readonly what: string
  /** What to do about it. */
  readonly remedy: string
  /** Whether the kernel itself crashes when a device is added, so that none may be. */
  readonly crashes: boolean
}

const NEWER_UBUNTU =
  "run another kernel: Ubuntu's 6.8 and 7.0 do not crash; in CI, use a runner with another one, or ublk-ts's lab"

/**
 * The kernels that are known to be bad, first match first. Those of Ubuntu have the faulty change without the one that it
 * needs, from some build on, and no build is known that has both. scripts/kernel-crashes knows those that crash, too, for
 * machines without Node.
 */
const FAULTS: readonly (KernelFault & { readonly releases: RegExp })[] = [
  {
    releases: /^6\.18\.[45](?!\d)/,
    what: 'crashes when a device is added',
    remedy: 'update to Linux 6.18.6 or later',
    crashes: true,
  },
  {
    releases: /^6\.17\.0-1\d{3}-(azure|aws)/,
    what: 'crashes when a device is added',
    remedy: NEWER_UBUNTU,
    crashes: true,
  },
  {
    releases: /^6\.18\.40(?!\d)/,
    what: 'can lose a command to the driver, which then times out',
    remedy: 'update to the newest Linux 6.18',
    crashes: false,
  },
  {
    releases: /^7\.0(\.(\d|1[0-4])(?!\d)|(?![.\d]))/,
    what: 'can lose a command to the driver, which then times out',
    remedy: 'update to Linux 7.0.15 or later, or to 7.1',
    crashes: false,
  },
]

/**
 * What is known to be wrong with a kernel.
 *
 * @param release - As `uname -r` prints it.
 */
export function kernelFault(release: string): KernelFault | undefined {
  return FAULTS.find(({ releases }) => releases.test(release))
}

/**
 * Refuses to add a device where that crashes the kernel.
 *
 * @throws UblkError of kind `unsupported`.
 */
export function refuseCrashes(kernel: string = release()): void {
  const fault = kernelFault(kernel)
  // Whoever has mended such a kernel can say so.
  if (!fault?.crashes || process.env['UBLK_TS_ANY_KERNEL'] === '1') return
  throw new UblkError('unsupported', `Linux ${kernel} ${fault.what}, so none is`, {
    hint: `${fault.remedy}; if this one is mended, set UBLK_TS_ANY_KERNEL=1`,
  })
}

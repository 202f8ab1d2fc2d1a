import { autoChoices, type CopyMode, features, type Transport } from 'ublk-ts'

/** In which of the driver's ways a disk is served. */
export interface Mode {
  readonly transport: Transport
  readonly copy: CopyMode
}

/** All there are. */
export const MODES: readonly Mode[] = (['per-io', 'batch'] as const).flatMap(transport =>
  (['copy', 'user', 'zero'] as const).map(copy => ({ transport, copy })),
)

/** Which of the driver's features a way takes. */
const NEEDED = { 'per-io': [], batch: ['BATCH_IO'], copy: [], user: ['USER_COPY'], zero: ['AUTO_BUF_REG'] }

/** The features of this kernel's driver. */
export const supported: ReadonlySet<string> = new Set(
  (await features()).filter(({ supported }) => supported).map(({ name }) => name),
)

/** Whether this kernel can do it. */
export function kernelHas({ transport, copy }: Mode): boolean {
  return [...NEEDED[transport], ...NEEDED[copy]].every(name => supported.has(name))
}

/** Whether this kernel has the recovery mode `fail`. */
export const canFail: boolean = supported.has('USER_RECOVERY_FAIL_IO')

const choices = await autoChoices()

/** What `auto` means for a kind of disk here. */
export function automatic(kind: 'memory' | 'file' | 'javascript'): Mode {
  const choice = choices.find(({ backend }) => backend === kind)?.choice
  if (choice) return { transport: choice.transport, copy: choice.copy }
  throw new Error(`nothing is chosen for ${kind}`)
}

/** Whether the kernel is the lab's own, which has every mode. */
export const inLab: boolean = process.env['UBLK_TS_VM'] === 'uml'

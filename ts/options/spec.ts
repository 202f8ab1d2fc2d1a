import type * as native from '#binding'
import { checkStack, sizeOf, stackToNative } from '../backends/stack.js'
import { invalid } from '../errors.js'
import { DEFAULT_DEPTH } from '../limits.js'
import type { ExternalBackend } from '../runtime/backend-properties.js'
import type { CreateOptions, DeviceOptions } from './device-options.js'
import { OPTIONS } from './table.js'
import { checkedValue } from './value.js'

/** The options as the native part takes them, with sizes in bytes. Only those that were given. */
export type Spec = Omit<DeviceOptions, 'backend'> & {
  backend: native.DeviceSpec['backend']
  sharedMemory?: boolean
}

/**
 * Checks the options as far as that is possible without touching the system, and turns them into what the native part
 * takes.
 *
 * @param external - The properties of a backend written in JavaScript.
 * @throws UblkError of kind `invalid`.
 */
export function toSpec(options: CreateOptions, external?: ExternalBackend): Spec {
  const stack = external ? undefined : checkStack(options.backend)
  const usual = external?.blockSize ?? 512
  const block =
    options.blockSize === undefined ? usual : (checkedValue('blockSize', options.blockSize, usual) as number)
  const given: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(options)) {
    if (value !== undefined && Object.hasOwn(OPTIONS, name)) given[name] = checkedValue(name, value, block)
  }
  checkTogether(given as Partial<CreateOptions>, external !== undefined)
  const bytes = stack ? sizeOf(stack) : external?.size
  if (bytes !== undefined && bytes % block !== 0) {
    throw invalid(`size ${bytes} is not a multiple of the block size ${block}`)
  }
  return {
    ...Object.fromEntries(Object.entries(given).filter(([name]) => OPTIONS[name]?.native ?? true)),
    ...(options.share && { sharedMemory: true }),
    backend: stack ? stackToNative(stack) : { ...external, kind: 'external' },
  }
}

/** The times that concern only disks written in JavaScript, in milliseconds; 0: forever. */
export function jsTimes({ requestTimeout = 0, stuckTimeout }: CreateOptions): {
  timeout: number
  stuckTimeout: number
} {
  return {
    timeout: requestTimeout,
    stuckTimeout: stuckTimeout ?? (OPTIONS['stuckTimeout']?.byDefault as number),
  }
}

/** Refuses options that exclude each other. */
function checkTogether(options: Partial<CreateOptions>, external: boolean): void {
  const { threads, threadsPerQueue = 1, depth = DEFAULT_DEPTH, affinity, poll, observe } = options
  if (observe && external) {
    throw invalid('a disk written in JavaScript has nothing to observe', 'it sees every request itself')
  }
  if (threads === 'shared' && external) {
    throw invalid(
      'a disk written in JavaScript cannot share native threads',
      'its queues are served by Workers, or by the event loop',
    )
  }
  const own = !external && threads !== 'shared'
  if (affinity && !own) throw invalid('affinity is for native threads, one for each queue')
  if (threadsPerQueue > 1 && !own) {
    throw invalid('several threads for each queue are for disks with native threads of their own')
  }
  if (threadsPerQueue > depth) {
    throw invalid(`threads per queue must be no more than the depth ${depth}, not ${threadsPerQueue}`)
  }
  if (poll && threads === 'shared') throw invalid('shared threads do not poll', 'leave out threads or poll')
}

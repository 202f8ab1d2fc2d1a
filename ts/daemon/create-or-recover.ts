import { isDeepStrictEqual } from 'node:util'
import { ofSize, withoutScratchFiles } from '../backends/stack.js'
import { UblkError } from '../errors.js'
import { UblkDevice } from '../index.js'
import { type RecordedOptions, readRecord } from '../remote/record-file.js'
import type { Job } from './job.js'
import { recordToRecover } from './recoverable-record.js'

/**
 * A job that recovers a device instead of creating it, if it has lost its server and waits for a new one. A device that
 * cannot be recovered, because it has lost its disk, too, is removed and created again.
 *
 * @throws UblkError of kind `exists` if it waits, but was created with other options.
 */
export async function recoverInstead(job: Job): Promise<Job> {
  const { id } = job
  if (id === undefined || readRecord(id).state !== 'dead') return job
  const device = await UblkDevice.open(id)
  if ((await device.info()).state === 'stopped') {
    await device.delete()
    return job
  }
  const { options, scratch, log } = await recordToRecover(id)
  const differs = firstDifference(options, job.options)
  if (differs !== undefined) {
    throw new UblkError('exists', `device ${id} waits for a server, but was made with another ${differs}`, {
      device: id,
      hint: 'serve it with {recover}, or remove it with {delete}',
    })
  }
  return { ...job, action: 'recover', options, scratch, log: { ...job.log, path: job.log.path ?? log } }
}

/** Ignores the files in memory that were made for a disk, which differ each time, and the disk's size, which may have changed. */
function firstDifference(one: RecordedOptions, other: RecordedOptions): string | undefined {
  const plain = ({ backend, ...looks }: RecordedOptions): Record<string, unknown> => {
    return { ...looks, backend: ofSize(withoutScratchFiles(backend), 0) }
  }
  const [a, b] = [plain(one), plain(other)]
  return [...new Set([...Object.keys(a), ...Object.keys(b)])].find(key => !isDeepStrictEqual(a[key], b[key]))
}

import { existsSync } from 'node:fs'
import { memoryOf } from '../backends/stack.js'
import { UblkError, wrap } from '../errors.js'
import { UblkDevice } from '../index.js'
import { connect } from '../remote/control-client.js'
import { identityOf } from '../remote/identity.js'
import { type DeviceRecord, type Found, readRecord } from '../remote/record-file.js'

/**
 * The record of a device that waits for a server, from which it can be recovered.
 *
 * @throws UblkError that says why there is none.
 */
export async function recordToRecover(id: number): Promise<DeviceRecord> {
  const found = readRecord(id)
  if (found.state !== 'dead' && !(found.state === 'served' && (await isDeserted(id))))
    throw refusal(id, found)
  const { recovery, backend } = found.record.options
  const fail = (kind: 'unsupported' | 'backend', message: string): UblkError =>
    new UblkError(kind, message, { device: id, hint: '{delete} removes it' })
  if (recovery === undefined) throw fail('unsupported', `device ${id} was made without recovery`)
  for (const file of memoryOf(backend)) {
    if (file === null) throw fail('backend', `device ${id} had its data in the memory of its server`)
    if (!existsSync(file)) throw fail('backend', `device ${id} had its data in ${file}, which is gone`)
  }
  return found.record
}

/**
 * Whether a device has no server although the process in its record runs: the Worker that served it was terminated, or the
 * record could not be rewritten. In an upgrade the device waits as well, but its old server answers.
 */
async function isDeserted(id: number): Promise<boolean> {
  const { state } = await (await UblkDevice.open(id)).info()
  if (state !== 'quiesced' && state !== 'fail-io') return false
  try {
    using _ = await connect(id)
    return false
  } catch (error) {
    return wrap(error).kind === 'not-found'
  }
}

/**
 * The record of a device that is served.
 *
 * @throws UblkError that says why there is none.
 */
export function recordOfServed(id: number): DeviceRecord {
  const found = readRecord(id)
  if (found.state === 'served') {
    if (!memoryOf(found.record.options.backend).includes(null)) return found.record
    throw new UblkError('unsupported', `device ${id} has its data in the memory of its server`, {
      device: id,
      hint: 'a disk in memory can be recovered if its data is in a file in /dev/shm{memory-file}',
    })
  }
  if (found.state !== 'dead') throw refusal(id, found)
  throw new UblkError('not-found', `device ${id} has no server`, {
    device: id,
    hint: '{recover}',
  })
}

function refusal(id: number, found: Exclude<Found, { state: 'dead' }>): UblkError {
  const error = (kind: UblkError['kind'], message: string, hint: string): UblkError =>
    new UblkError(kind, message, { device: id, hint })
  const remove = '{delete} removes it'
  switch (found.state) {
    case 'none':
      if (identityOf(id) === undefined)
        return error('not-found', `there is no ublk device ${id}`, 'choose one that exists{list}')
      return error('not-found', `device ${id} has no record`, '{record} writes one')
    case 'corrupt':
      return error('system', `the record of device ${id} cannot be used: ${found.why}`, remove)
    case 'newer':
      return error(
        'unsupported',
        `the record of device ${id} cannot be used: ${found.why}`,
        'use that version',
      )
    case 'other-boot':
      return error('not-found', `device ${id} went when the machine was started anew`, remove)
    case 'other-device':
      return error('not-found', `the record of device ${id} is of another that is gone`, remove)
    case 'served':
      return error(
        'busy',
        `device ${id} is served by process ${found.record.server.pid}`,
        'it needs no recovery',
      )
  }
}

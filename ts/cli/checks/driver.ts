import { wrap } from '../../errors.js'
import type { Feature } from '../../features.js'
import type { DeviceInfo } from '../../info.js'
import native from '../../native/load.cjs'
import { type DeviceRecord, isStale, readRecord, recordedIds } from '../../remote/record-file.js'
import { findRunDir, runDir } from '../../remote/run-dir.js'
import { describe } from '../failure.js'
import type { Api } from '../load-api.js'
import { type Check, found } from './check.js'
import type { Machine } from './machine.js'
import { ownDiskCheck } from './own-disk.js'

/** The checks that need the native part: whether it loads, and what the driver answers. */
export async function driverChecks(machine: Machine): Promise<Check[]> {
  let api: Api
  try {
    api = await import('../../index.js')
  } catch (error) {
    return [notLoaded(error)]
  }
  const missing = await nativeCheck()
  if (missing) return [missing]
  const loaded = found('native', 'ok', `the native part runs on ${process.arch}`)
  const ioUring = await ioUringCheck()
  if (ioUring) return [loaded, ioUring]
  if (!(await machine.exists('/dev/ublk-control'))) return [loaded]
  try {
    const features = featureCheck(await api.features())
    const devices = await api.UblkDevice.list()
    const checks = [
      loaded,
      features,
      deviceCheck(devices, await machine.maxDevices()),
      leftoverCheck(devices),
      recordCheck(),
      await ownDiskCheck(machine, served(), runDir()),
    ]
    return checks.filter(check => check !== undefined)
  } catch (error) {
    return [loaded, found('answer', 'FAIL', `the driver cannot be used: ${describe(error).line}`)]
  }
}

function served(): DeviceRecord[] {
  const found = recordedIds().map(readRecord)
  return found.flatMap(each => (each.state === 'served' ? [each.record] : []))
}

/** Without the native part, all that would be of it throws. */
async function nativeCheck(): Promise<Check | undefined> {
  const { probeIoUring } = await import('#binding')
  try {
    probeIoUring()
    return undefined
  } catch (error) {
    return wrap(error).message.startsWith(native.NATIVE_PART) ? notLoaded(error) : undefined
  }
}

/** The reason why io_uring cannot be used, if there is one. No file shows what a seccomp filter forbids, so this tries it. */
async function ioUringCheck(): Promise<Check | undefined> {
  const { probeIoUring } = await import('#binding')
  try {
    probeIoUring()
    return undefined
  } catch (error) {
    const { message, hint } = wrap(error)
    return found('io_uring', 'FAIL', message, hint ?? null)
  }
}

function notLoaded(error: unknown): Check {
  const { message, hint } = wrap(error)
  const why = message.split('\n', 1)[0]
  return found(
    'native',
    'FAIL',
    `${why} (Node ${process.version}, ${process.platform} ${process.arch})`,
    hint ??
      'npm install ublk-ts again, with optional dependencies; there are prebuilt binaries for x64 and arm64',
  )
}

function featureCheck(features: readonly Feature[]): Check {
  const have = features.filter(feature => feature.supported).length
  return found(
    'features',
    'ok',
    `the driver has ${have} of the ${features.length} features known (ublk-ts features)`,
  )
}

/** Older kernels count every device against the limit, newer ones only those of unprivileged users. */
function deviceCheck(devices: readonly DeviceInfo[], max: number | undefined): Check {
  const inUse = devices.length
  if (max === undefined || inUse < max) return found('devices', 'ok', `${inUse} in use`)
  return found(
    'devices',
    'warn',
    `${inUse} in use, and the limit is ${max}: the driver may refuse more`,
    `echo ${inUse * 2} >/sys/module/ublk_drv/parameters/ublks_max`,
  )
}

/** A killed server leaves its device behind: without a disk, or with one that waits for a new server. */
function leftoverCheck(devices: readonly DeviceInfo[]): Check {
  const waits = ({ state }: DeviceInfo): boolean => state === 'quiesced' || state === 'fail-io'
  const known = devices.filter(({ state }) => state !== 'stopping' && state !== 'unknown')
  const dead = known.filter(({ pid, serverAlive }) => pid <= 0 && !serverAlive)
  if (dead.length === 0) return found('leftovers', 'ok', 'no device without a server')
  const ids = (some: readonly DeviceInfo[]): string[] => some.map(({ id }) => `${id}`)
  const [waiting, rest] = [ids(dead.filter(waits)), ids(dead.filter(device => !waits(device)))]
  const remedies = [
    ...(waiting.length > 0 ? [`ublk-ts recover ${waiting.join(' ')}`] : []),
    ...(rest.length > 0 ? [`ublk-ts delete ${rest.join(' ')}`] : []),
  ]
  const one = dead.length === 1
  return found(
    'leftovers',
    'warn',
    `${one ? 'device' : 'devices'} ${ids(dead).join(', ')} ${one ? 'has' : 'have'} no server`,
    remedies.join('; '),
  )
}

/** After a reboot or a crash, records of devices remain that no longer exist. */
function recordCheck(): Check {
  try {
    findRunDir() // Says what is wrong with it.
    const all = recordedIds().map(id => ({ id, found: readRecord(id) }))
    const stale = all.filter(({ found }) => isStale(found)).map(({ id }) => id)
    const unfit = all.filter(({ found }) => 'why' in found)
    const bad = [...stale, ...unfit.map(({ id }) => id)]
    if (bad.length === 0) return found('records', 'ok', 'every record belongs to an existing device')
    const whys = unfit.map(
      ({ id, found }) => `the record of device ${id} cannot be used: ${'why' in found ? found.why : ''}`,
    )
    if (stale.length > 0) whys.unshift(`records of devices that no longer exist: ${stale.join(', ')}`)
    return found('records', 'warn', whys.join('; '), `ublk-ts delete ${bad.join(' ')}`)
  } catch (error) {
    return found('records', 'warn', describe(error).line)
  }
}

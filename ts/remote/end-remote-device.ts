/** Stops or deletes a device that this process does not serve. */
import { setTimeout as sleep } from 'node:timers/promises'
import * as native from '#binding'
import { wrap } from '../errors.js'
import { type ControlClient, connect } from './control-client.js'
import { identityOf } from './identity.js'

/** How long a server may take to acknowledge a forced shutdown, in milliseconds. */
const BRIEF = 2000

/** How often the server is checked while it deletes the device. */
const LOOK = 1000

/** How long it may meanwhile answer neither a request of the disk nor a call. */
const SILENCE = 5000

/** With `force`: after how many milliseconds without an answer to any of the disk's requests a server is killed. */
const PATIENCE = 10_000
/** The same for a server that did not answer a call. */
const IMPATIENCE = 3000

/** How the device is to end. */
export interface End {
  /** Whether to delete the device, or only its disk. */
  readonly what: 'stop' | 'delete'
  readonly force: boolean
  /** Called with what was done to the server. */
  readonly say: (line: string) => void
}

/** Stops or deletes a device of another process. Returns whether its server did, which then removes the record. */
export async function endRemoteDevice(id: number, end: End, cancel: native.Cancel): Promise<boolean> {
  const { what, force, say } = end
  let silent = false
  if (force) {
    await rouse(id, say)
    if (what === 'delete') {
      const how = await deletedByServer(id, say)
      if (how === 'deleted') return true
      silent = how === 'silent'
    }
  }
  try {
    const patience = silent ? IMPATIENCE : PATIENCE
    const notes = await native.endDevice(id, { force, delete: what === 'delete', patience }, cancel)
    notes.forEach(say)
    return false
  } catch (error) {
    // Without io_uring this process cannot send the command, but a server that has it can.
    if (wrap(error).kind !== 'no-io-uring' || what === 'stop' || force) throw error
    using server = await connect(id, BRIEF).catch(() => undefined)
    if (!server) throw error
    await server.shutdown()
    return true
  }
}

async function rouse(id: number, say: (line: string) => void): Promise<void> {
  try {
    const notes = await native.rouseServer(id)
    notes.forEach(say)
  } catch (error) {
    if (wrap(error).kind !== 'no-io-uring') throw error
  }
}

/**
 * Tells a device's server to delete it by force, since only the server can fail requests that its backend never
 * answers. `nobody`: there is no server to ask; `silent`: it does not answer.
 */
async function deletedByServer(
  id: number,
  say: (line: string) => void,
): Promise<'deleted' | 'nobody' | 'silent'> {
  const identity = identityOf(id)
  let server: ControlClient
  try {
    server = await connect(id, BRIEF)
  } catch (error) {
    return wrap(error).kind === 'timeout' ? 'silent' : 'nobody'
  }
  using _ = server
  try {
    return await untilDeleted(server, id, say)
  } catch (error) {
    if (identityOf(id) !== identity) return 'deleted'
    if (wrap(error).kind === 'system') return 'nobody' // It has ended.
    throw error
  }
}

async function untilDeleted(
  server: ControlClient,
  id: number,
  say: (line: string) => void,
): Promise<'deleted' | 'silent'> {
  const done = server.shutdown({ force: true, patient: true }).then(() => 'deleted' as const)
  done.catch(() => {}) // It is awaited below.
  let answered = native.diskActivity(id)?.answered
  let since = performance.now()
  for (;;) {
    const pause = new AbortController()
    const soon = sleep(LOOK, undefined, { signal: pause.signal }).catch(() => undefined)
    const how = await Promise.race([done, soon])
    pause.abort()
    if (how) return how
    // Once the device is gone, its server is about to answer.
    await rouse(id, say).catch(error => {
      if (wrap(error).kind !== 'not-found') throw error
    })
    const now = native.diskActivity(id)?.answered
    if (now !== answered) [answered, since] = [now, performance.now()]
    if (performance.now() - since < SILENCE) continue
    if (!(await server.info(BRIEF).catch(() => undefined))) return 'silent'
    since = performance.now()
  }
}

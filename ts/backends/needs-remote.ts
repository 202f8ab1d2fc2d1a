import { UblkError } from '../errors.js'
import native from '../native/load.cjs'

/** Refuses, if the native part that is loaded does not speak with object stores; `what` names what needs that. */
export async function needsRemote(what: string): Promise<void> {
  const { hasRemote } = await import('#binding')
  if (hasRemote()) return
  const problem = native.remoteProblem()
  throw new UblkError('unsupported', problem ?? `${what} needs the package ${native.REMOTE}`, {
    hint: `npm install ${native.REMOTE}`,
  })
}

import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { UblkError } from '../errors.js'

/** mkfs is not on the path of every user. Messages are in English. */
export const ENVIRONMENT: NodeJS.ProcessEnv = {
  ...process.env,
  PATH: [process.env['PATH'], '/usr/sbin:/sbin'].filter(Boolean).join(':'),
  LC_ALL: 'C',
}

/**
 * Runs a program. If it fails, the last that it says is the error's message.
 *
 * @param signal - Kills it. This does not wait until it has ended: it may wait for the disk.
 */
export async function command(name: string, words: readonly string[], signal?: AbortSignal): Promise<void> {
  signal?.throwIfAborted()
  const child = spawn(name, words, { stdio: ['ignore', 'ignore', 'pipe'], env: ENVIRONMENT })
  let said = ''
  child.stderr?.setEncoding('utf8').on('data', text => {
    said = `${said}${text}`.slice(-4096)
  })
  const given = new AbortController()
  const closed = once(child, 'close', { signal: given.signal }).catch((error: NodeJS.ErrnoException) => {
    if (given.signal.aborted) throw signal?.reason
    if (error.code !== 'ENOENT') throw error
    throw new UblkError('unsupported', `there is no program ${name}`, { hint: 'install it', cause: error })
  })
  const abort = (): void => {
    child.kill('SIGKILL')
    given.abort()
  }
  signal?.addEventListener('abort', abort, { once: true })
  const [status, end] = await closed.finally(() => signal?.removeEventListener('abort', abort))
  if (status === 0) return
  const why = reasonIn(said) ?? (end === null ? `status ${status}` : `${end}`)
  const denied = /permission denied|must be superuser|only root/i.test(why)
  throw new UblkError(denied ? 'no-permission' : 'system', `${name}: ${why.replace(`${name}: `, '')}`)
}

/** The line that says why a program failed: the last one. Further explanations are indented, or are how it is used. */
function reasonIn(said: string): string | undefined {
  const lines = said.split('\n').filter(line => /^\S/.test(line))
  const usage = lines.findIndex(line => /^usage:/i.test(line))
  return (usage > 0 ? lines.slice(0, usage) : lines).at(-1)
}

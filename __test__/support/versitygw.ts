import { existsSync, mkdirSync } from 'node:fs'
import { homedir } from 'node:os'
import type { ExecutionContext } from 'ava'
import { ServerProgram } from './server-program.js'

/** versitygw, an S3 server whose objects are files, as `scripts/setup --versitygw` builds it. */
export class Versitygw extends ServerProgram {
  static readonly PROGRAM = `${homedir()}/.cache/ublk-ts/stores/versitygw`
  static readonly SECRET = 'planted-secret-key'
  static readonly PORT = 7071

  /** Whether it is here; if not, the test says so and has passed. */
  static isBuilt(t: ExecutionContext): boolean {
    if (existsSync(Versitygw.PROGRAM)) return true
    t.log('SKIPPED: versitygw is not built; scripts/setup --versitygw builds it with Go')
    t.pass()
    return false
  }

  /** Where clients find it, and their keys, from here on. */
  static announce(port = Versitygw.PORT): void {
    Object.assign(process.env, {
      AWS_ENDPOINT_URL: `http://127.0.0.1:${port}`,
      AWS_ALLOW_HTTP: 'true',
      AWS_ACCESS_KEY_ID: 'testkey00',
      AWS_SECRET_ACCESS_KEY: Versitygw.SECRET,
    })
  }

  async start(dir: string): Promise<void> {
    for (const part of ['meta', 'data/disks']) mkdirSync(`${dir}/${part}`, { recursive: true })
    const env = { ...process.env, ROOT_ACCESS_KEY: 'testkey00', ROOT_SECRET_KEY: Versitygw.SECRET }
    const words = ['--port', `127.0.0.1:${Versitygw.PORT}`, 'posix', '--sidecar', `${dir}/meta`]
    await this.spawn(
      [Versitygw.PROGRAM, ...words, '--default-etag', 'none', `${dir}/data`],
      Versitygw.PORT,
      env,
    )
  }
}

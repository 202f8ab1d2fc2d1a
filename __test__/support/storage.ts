import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { result, sh, shell } from './program.js'
import { until } from './server.js'

const CEPH = fileURLToPath(new URL('../../__test__/support/ceph.sh', import.meta.url))

/** Which of these programs, and drivers of QEMU such as `block-rbd.so`, are missing in the usual directories. */
export function missing(...names: string[]): string[] {
  const dirs = ['/usr/bin', '/usr/sbin', ...readdirSync('/usr/lib').map(dir => `/usr/lib/${dir}/qemu`)]
  return names.filter(name => !dirs.some(dir => existsSync(`${dir}/${name}`)))
}

/** Programs that serve storage to other machines: a target of iSCSI, or a Ceph cluster. */
export class Storage implements AsyncDisposable {
  readonly #child: ChildProcess

  private constructor(child: ChildProcess) {
    this.#child = child
  }

  /** Logical unit 1 of a target is this file; user and password of its clients are these. */
  static async target(image: string, port: number, user: string, password: string): Promise<Storage> {
    const words = ['-f', '-C', '7', '--iscsi', `portal=127.0.0.1:${port}`]
    await sh('mkdir -p /run/tgtd')
    const storage = new Storage(spawn('tgtd', words, { stdio: ['pipe', 'ignore', 'ignore'] }))
    const tell = (words: string): Promise<string> => sh(`tgtadm -C 7 --lld iscsi ${words}`)
    await until(
      async () => (await result(shell('tgtadm -C 7 --op show --mode sys'))).status === 0,
      'tgtd runs',
    )
    await tell('--mode target --op new --tid 1 -T iqn.2026-11.test:disk')
    await tell(`--mode logicalunit --op new --tid 1 --lun 1 -b ${image}`)
    await tell(`--mode account --op new --user ${user} --password ${password}`)
    await tell(`--mode account --op bind --tid 1 --user ${user}`)
    await tell('--mode target --op bind --tid 1 -I ALL')
    return storage
  }

  /** A cluster in this directory. It has the image rbd/disk. */
  static async ceph(dir: string): Promise<Storage> {
    const child = spawn(CEPH, [dir], { stdio: ['pipe', 'pipe', 'inherit'] })
    let said = ''
    child.stdout?.on('data', text => {
      said += text
    })
    await until(async () => said.includes('ready') || child.exitCode !== null, 'Ceph is ready')
    if (child.exitCode !== null) throw new Error(`Ceph ended with status ${child.exitCode}`)
    return new Storage(child)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const child = this.#child
    child.stdin?.end()
    if (child.spawnfile === 'tgtd') child.kill('SIGKILL')
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
  }
}

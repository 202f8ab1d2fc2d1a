import { constants } from 'node:fs'
import { access, readFile } from 'node:fs/promises'
import { kernelFault } from '../../kernels.js'
import { type Check, found } from './check.js'
import type { Mount } from './own-disk.js'

/**
 * What can be told about a machine from its files alone, so that it works where nothing else does.
 * `root` is the directory its files are in.
 */
export class Machine {
  constructor(
    readonly root: string,
    readonly release: string,
    readonly uid: number,
  ) {}

  /** All checks, from the ground up. */
  async checks(): Promise<Check[]> {
    const all = [
      this.kernel(),
      this.driver(),
      this.permission(),
      this.ioUring(),
      this.nodes(),
      this.lockedMemory(),
    ]
    return (await Promise.all(all)).filter(check => check !== undefined)
  }

  /** The version of the kernel, and what is known to be wrong with it. */
  async kernel(): Promise<Check> {
    const [major = 0, minor = 0] = this.release.split(/[.+-]/).map(Number)
    const version = major * 1000 + minor
    const name = `Linux ${this.release}`
    const newer = "run a newer kernel; Debian's have ublk from 6.12 on"
    if (version < 6000) return found('kernel', 'FAIL', `${name}; ublk came with 6.0`, newer)
    if (version < 6005)
      return found('kernel', 'warn', `${name}; before 6.5 the driver cannot be asked for its features`, newer)
    const fault = kernelFault(this.release)
    if (fault) {
      const status = fault.crashes ? 'FAIL' : 'warn'
      return found('kernel', status, `${name}; this one ${fault.what}`, fault.remedy)
    }
    return found('kernel', 'ok', name)
  }

  /** Whether the ublk driver is there, and if not, where it could come from. */
  async driver(): Promise<Check> {
    const modules = `/lib/modules/${this.release}`
    if (await this.exists('/dev/ublk-control')) return found('driver', 'ok', 'ublk is loaded')
    const loaded = await this.exists('/sys/module/ublk_drv')
    const builtIn = /\/ublk_drv\.ko/.test(await this.read(`${modules}/modules.builtin`))
    if (loaded || builtIn) {
      const device = (await this.read('/sys/class/misc/ublk-control/dev')).trim().replace(':', ' ')
      const remedy = device === '' ? 'mount a devtmpfs on /dev' : `mknod -m 600 /dev/ublk-control c ${device}`
      return found(
        'driver',
        'FAIL',
        `ublk is ${builtIn ? 'built in' : 'loaded'}, but /dev/ublk-control is missing`,
        remedy,
      )
    }
    const list = await this.read(`${modules}/modules.dep`)
    if (/\/ublk_drv\.ko/.test(list)) {
      return found('driver', 'FAIL', 'ublk is a module that is not loaded', 'modprobe ublk_drv')
    }
    if (list === '') {
      return found(
        'driver',
        'FAIL',
        `ublk is not loaded, and there is no ${modules} to load it from`,
        "on the host, modprobe ublk_drv; or run a kernel that has it, as Debian's have from 6.12 on",
      )
    }
    return found(
      'driver',
      'FAIL',
      'this kernel was built without ublk',
      "run one with CONFIG_BLK_DEV_UBLK; Debian's have it from 6.12 on",
    )
  }

  /** Whether the caller may use the driver. */
  async permission(): Promise<Check | undefined> {
    if (!(await this.exists('/dev/ublk-control'))) return undefined
    const how = 'use sudo, or see docs/operations.md'
    if (!(await this.usable('/dev/ublk-control'))) {
      return found('permission', 'FAIL', 'no permission to use /dev/ublk-control', how)
    }
    if (this.uid === 0) return found('permission', 'ok', 'running as root')
    const rules = ['/etc', '/run', '/usr/lib', '/lib'].map(dir => `${dir}/udev/rules.d/59-ublk-ts.rules`)
    if ((await Promise.all(rules.map(rule => this.exists(rule)))).includes(true)) {
      return found('permission', 'ok', 'not root, but may create disks that are private to this user')
    }
    return found(
      'permission',
      'warn',
      'not root, and no udev rule gives new disks to the users that create them',
      how,
    )
  }

  /** Whether io_uring, through which everything goes, was turned off. */
  async ioUring(): Promise<Check> {
    const setting = (await this.read('/proc/sys/kernel/io_uring_disabled')).trim()
    const remedy = 'sysctl kernel.io_uring_disabled=0'
    if (setting === '2') return found('io_uring', 'FAIL', 'io_uring is turned off on this machine', remedy)
    if (setting === '1') {
      const status = this.uid === 0 ? 'ok' : 'FAIL'
      return found(
        'io_uring',
        status,
        'io_uring is for privileged users only',
        status === 'ok' ? null : `use sudo, or ${remedy}`,
      )
    }
    return found('io_uring', 'ok', 'io_uring is not restricted')
  }

  /** Whether the nodes of new disks will appear: in most containers the kernel makes none, and we have to. */
  async nodes(): Promise<Check> {
    const dev = (await this.read('/proc/self/mounts'))
      .split('\n')
      .findLast(line => line.split(' ')[1] === '/dev')
    const type = dev?.split(' ')[2] ?? 'nothing'
    if (type === 'devtmpfs') return found('nodes', 'ok', '/dev is kept by the kernel')
    const container = (await this.exists('/.dockerenv')) || (await this.exists('/run/.containerenv'))
    const where = `${container ? 'this is a container: ' : ''}/dev is ${type}, not devtmpfs`
    if (await this.makesNodes()) {
      return found('nodes', 'ok', `${where}; the nodes of new disks are made by their servers`)
    }
    return found(
      'nodes',
      'warn',
      `${where}, and this process may not make the nodes of new disks`,
      container ? 'start it with --privileged -v /dev:/dev' : 'mount a devtmpfs on /dev',
    )
  }

  /** Whether this process may make device nodes: it has the capability, and not only in a user namespace. */
  private async makesNodes(): Promise<boolean> {
    const CAP_MKNOD = 1n << 27n
    const effective = /^CapEff:\s*([\da-f]+)/m.exec(await this.read('/proc/self/status'))?.[1] ?? '0'
    const users = (await this.read('/proc/self/uid_map')).trim().split(/\s+/).join(' ')
    return (BigInt(`0x${effective}`) & CAP_MKNOD) !== 0n && users === '0 0 4294967295'
  }

  /** How much memory may be locked, which counts for rings and buffers of users other than root. */
  async lockedMemory(): Promise<Check> {
    const ENOUGH = 8 * 2 ** 20
    const limits = await this.read('/proc/self/limits')
    const limit = /^Max locked memory\s+(\S+)/m.exec(limits)?.[1] ?? 'unlimited'
    if (this.uid === 0 || limit === 'unlimited' || Number(limit) >= ENOUGH) {
      return found('memory', 'ok', 'enough memory may be locked')
    }
    return found(
      'memory',
      'warn',
      `only ${Number(limit) / 1024} KiB of memory may be locked`,
      'ulimit -l unlimited',
    )
  }

  /** The driver's limit on the number of devices, if it can be read. */
  async maxDevices(): Promise<number | undefined> {
    const text = (await this.read('/sys/module/ublk_drv/parameters/ublks_max')).trim()
    return text === '' ? undefined : Number(text)
  }

  /** The swap devices and files. */
  async swaps(): Promise<string[]> {
    const [, ...lines] = (await this.read('/proc/swaps')).trim().split('\n')
    return lines.map(line => line.split(/\s/, 1)[0] ?? '')
  }

  /** The mounts, in the order in which they were made. */
  async mounts(): Promise<Mount[]> {
    const lines = (await this.read('/proc/self/mounts')).trim().split('\n')
    const unescaped = (text: string): string =>
      text.replace(/\\(\d{3})/g, (_, octal) => String.fromCharCode(Number.parseInt(octal, 8)))
    return lines.map(line => {
      const [source = '', point = ''] = line.split(' ').map(unescaped)
      return { source, point }
    })
  }

  async exists(path: string): Promise<boolean> {
    return await access(this.root + path).then(
      () => true,
      () => false,
    )
  }

  private async usable(path: string): Promise<boolean> {
    return await access(this.root + path, constants.R_OK | constants.W_OK).then(
      () => true,
      () => false,
    )
  }

  /** A file that is missing or not readable is as good as empty here. */
  private async read(path: string): Promise<string> {
    return await readFile(this.root + path, 'utf8').catch(() => '')
  }
}

import { resolve } from 'node:path'
import { checkOptions } from '../check.js'
import { invalid, wrongType } from '../errors.js'
import { pathOf } from '../path.js'
import { openRunDir } from '../remote/run-dir.js'
import { nameOf } from '../user-values.js'
import { exclusiveOf } from './claim.js'
import type { Flags, Kind } from './kind.js'
import { type NbdOptions, nbdOptionsOf, nbdOptionsOfFlags } from './nbd.js'

/** A disk that a `qemu-nbd` of its own opens; see {@link qemu} and {@link rbd}. */
export interface QemuBackend {
  readonly kind: 'qemu'
  /** A block driver and its options, as QEMU takes them. */
  readonly options: string
  /** The path of a file with a key or a password. */
  readonly keyFile: string | undefined
  /** Whether no page cache is used. */
  readonly direct: true | undefined
  /** Where relative paths begin. */
  readonly directory: string | undefined
  /** False if the images are not claimed. */
  readonly exclusive: false | undefined
  /** Tells its server from those of other disks of the same image. */
  readonly instance: string
  /** For how long requests wait for a lost connection, in milliseconds. */
  readonly timeout: number | undefined
  /** How much of what is not flushed is kept, in bytes. */
  readonly journal: number | undefined
}

/** How {@link qemu} opens a disk, and uses its server. */
export interface QemuOptions extends NbdOptions {
  /**
   * A file with a key or a password, and nothing else: also no newline at its end. The driver's options name it `key`, such as
   * `'key-secret': 'key'`, so that it is on no command line.
   *
   * @defaultValue none
   */
  keyFile?: string | URL
  /**
   * Go round the page cache, and the caches of QEMU's drivers (`cache=none`). Flush is honest with and without.
   *
   * @defaultValue false
   */
  direct?: boolean
  /**
   * Where relative paths in the driver's options begin.
   *
   * @defaultValue the working directory
   */
  directory?: string | URL
  /**
   * Claim the files of this machine that the driver's options name, as {@link file} does; the files that an image names itself, QEMU
   * locks. Of what is on no file here, such as an RBD image, another disk is refused that is described in the same words.
   *
   * @defaultValue true
   */
  exclusive?: boolean
}

/** A block driver of QEMU with its options, as in its manual; a driver below it is an object of the same form. */
export interface QemuDriver {
  readonly driver: string
  readonly [option: string]: string | number | boolean | QemuDriver | Readonly<Record<string, unknown>>
}

const NAMES = {
  timeout: true,
  journal: true,
  keyFile: true,
  direct: true,
  directory: true,
  exclusive: true,
} as const

/**
 * What QEMU's block layer opens: images in its formats (VMDK, VHDX, VHD, VDI, LUKS, …), and disks of other machines (iSCSI, Ceph,
 * NFS, SSH, …). A `qemu-nbd` of its own serves the disk, on a socket in the run directory, and ends with it. If it dies, it is
 * started again, and all is as {@link nbd} says of a lost connection.
 *
 * The format is never guessed: `driver` names it. The image itself may name other files, such as a parent or the parts of
 * a VMDK, and QEMU opens them: use only images that you trust.
 *
 * @param options - A block driver with its options: an object, or text as for QEMU's `--blockdev` or `--image-opts`.
 * @param how - A key, the cache, and what happens when the connection is lost.
 * @throws UblkError of kind `invalid` if an option is wrong. `UblkDevice.create` rejects with kind `backend` if `qemu-nbd` is missing
 * or cannot open it, and `busy` if the image is in use.
 *
 * @example
 * ```ts
 * await UblkDevice.create({ backend: qemu({ driver: 'vmdk', file: { driver: 'file', filename: 'disk.vmdk' } }) })
 * ```
 */
export function qemu(options: string | QemuDriver, how: QemuOptions = {}): QemuBackend {
  checkOptions<QemuOptions>(how, 'qemu()', NAMES)
  const { keyFile, direct, directory, exclusive, ...nbd } = how
  if (direct !== undefined && typeof direct !== 'boolean')
    throw wrongType(`direct must be true or false, not ${nameOf(direct)}`)
  return {
    kind: 'qemu',
    options: checked(typeof options === 'string' ? options : flattened(options)),
    keyFile: keyFile === undefined ? undefined : pathOf(keyFile, 'the path of the file with the key'),
    direct: direct || undefined,
    directory: directory === undefined ? undefined : pathOf(directory, 'the directory'),
    exclusive: exclusiveOf(exclusive),
    instance: crypto.randomUUID().replaceAll('-', '').slice(0, 16),
    ...nbdOptionsOf(nbd),
  }
}

/** The options as text: `file.filename=a,,b` for a file named `a,b`. */
function flattened(options: unknown): string {
  if (typeof options !== 'object' || options === null || !('driver' in options))
    throw wrongType(`qemu() takes a driver with its options, not ${nameOf(options)}`)
  const { driver, ...others } = options
  return [...pairs('', { driver }), ...pairs('', others)].join(',')
}

function pairs(prefix: string, options: object): string[] {
  return Object.entries(options).flatMap(([name, value]) => {
    if (typeof value === 'object' && value !== null) return pairs(`${prefix}${name}.`, value)
    if (typeof value === 'boolean') return [`${prefix}${name}=${value ? 'on' : 'off'}`]
    if (typeof value === 'string' || typeof value === 'number')
      return [`${prefix}${name}=${String(value).replaceAll(',', ',,')}`]
    throw wrongType(
      `the option ${prefix}${name} must be text, a number or true or false, not ${nameOf(value)}`,
    )
  })
}

function checked(options: string): string {
  if (!/^driver=[^,]/.test(options))
    throw invalid('the options of QEMU begin with driver=NAME', 'the format of an image is never guessed')
  if (/[\0\n]/.test(options)) throw invalid('the options of QEMU are one line')
  if (/,(\S*\.)?cache\.no-flush=/.test(options))
    throw invalid('cache.no-flush would lose what was flushed', 'leave it out')
  if (/,(\S*\.)?locking=/.test(options))
    throw invalid('ublk-ts claims the images itself', 'leave locking out; exclusive: false claims none')
  if (/,(\S*\.)?password=/.test(options))
    throw invalid(
      'a password on a command line can be seen by all users',
      'put it into a file, and name it with password-secret=key',
    )
  return options
}

/** How {@link rbd} opens an image. */
export interface RbdOptions extends Omit<QemuOptions, 'keyFile' | 'directory'> {
  /**
   * Whose keyring is used: a name without `client.`.
   *
   * @defaultValue admin
   */
  user?: string
  /**
   * The path of Ceph's configuration, which says where the monitors and the keyring are.
   *
   * @defaultValue `/etc/ceph/ceph.conf`
   */
  conf?: string | URL
}

/**
 * An image of a Ceph cluster (RBD), which a `qemu-nbd` of its own opens, as {@link qemu} says. Debian has its driver in
 * `qemu-block-extra`. Several queues are possible. The disk has the size that the image has when the disk is made.
 *
 * Nothing keeps two machines from writing to one image at a time; on this machine another disk of it is refused that is described in
 * the same words.
 *
 * @param image - `pool/image`, `pool/namespace/image`, each possibly with `@snapshot`, which needs `readOnly`.
 * @param options - User, configuration, cache, and what happens when the connection is lost.
 * @throws UblkError of kind `invalid` if the name or an option is wrong.
 *
 * @example
 * ```ts
 * await UblkDevice.create({ backend: rbd('rbd/vm1', { user: 'vms', journal: '64M' }) })
 * ```
 */
export function rbd(image: string, options: RbdOptions = {}): QemuBackend {
  const { keyFile: _, directory: __, ...names } = NAMES
  checkOptions<RbdOptions>(options, 'rbd()', { ...names, user: true, conf: true })
  const { user, conf, ...how } = options
  if (typeof image !== 'string')
    throw wrongType(`the name of an RBD image must be text, not ${nameOf(image)}`)
  const parts = /^([^/@]+)\/(?:([^/@]+)\/)?([^/@]+)(?:@([^/@]+))?$/.exec(image)
  if (!parts) throw invalid('the name of an RBD image is pool/image')
  const [, pool, namespace, name, snapshot] = parts as unknown as [string, string, string?, string?, string?]
  if (user !== undefined && (typeof user !== 'string' || user === ''))
    throw wrongType(`user must be text, not ${nameOf(user)}`)
  const described = {
    driver: 'rbd',
    pool,
    ...(namespace && { namespace }),
    image: name as string,
    ...(snapshot && { snapshot }),
    ...(user && { user }),
    ...(conf !== undefined && { conf: resolve(pathOf(conf, 'the path of the configuration')) }),
  }
  return qemu(described, { ...how, directory: '/' })
}

/** The disk of `--image PATH --format NAME`. */
function imageOfFlags(path: string, flags: Flags): QemuBackend {
  const { format } = flags
  if (format === undefined) throw invalid('--image needs --format', 'the format of an image is never guessed')
  // QEMU takes a path that begins with / for no name of a protocol, and knows block devices by itself.
  const filename = resolve(pathOf(path, 'the path of the image'))
  const key: Record<string, string> = flags['keyFile'] === undefined ? {} : { 'key-secret': 'key' }
  return qemu({ ...key, driver: format as string, file: { filename } }, { ...howOf(flags), directory: '/' })
}

function howOf(flags: Flags): QemuOptions {
  const { keyFile, direct, exclusive } = flags
  return {
    ...nbdOptionsOfFlags(flags),
    ...(keyFile === undefined ? {} : { keyFile: resolve(keyFile as string) }),
    direct: direct === true,
    exclusive: exclusive !== false,
  }
}

/** See {@link qemu}. */
export const qemuKind: Kind<QemuBackend> = {
  name: 'qemu',
  native: true,
  stackable: true,
  check: ({ kind: _, options, instance, ...how }) => ({
    ...qemu(options, how as QemuOptions),
    ...(instance === undefined ? {} : { instance: instanceOf(instance) }),
  }),
  toNative: backend => ({ ...absolute(backend), kind: 'qemu', runDir: openRunDir() }),
  // Where a server that takes it over is in another directory, it is the same disk.
  toRecord: absolute,
  withoutClaim: backend => ({ ...backend, exclusive: false }),
  label: ({ options }) => options,
  commandLine: {
    mains: [
      {
        flags: '--image <path>',
        summary: 'an image that qemu-nbd opens, with --format: vmdk, …',
        make: imageOfFlags,
      },
      {
        flags: '--rbd <pool/image>',
        summary: 'an image of a Ceph cluster',
        make: (image, flags) => {
          const { cephUser, cephConf } = flags
          return rbd(image, {
            ...howOf(flags),
            ...(cephUser === undefined ? {} : { user: cephUser as string }),
            ...(cephConf === undefined ? {} : { conf: cephConf as string }),
          })
        },
      },
      {
        flags: '--qemu <options>',
        summary: 'what qemu-nbd opens: driver=iscsi,…, as for its --image-opts',
        make: (options, flags) => qemu(options, { ...howOf(flags), directory: process.cwd() }),
      },
    ],
    more: [
      { flags: '--format <name>', summary: 'the format of the image', of: ['--image'] },
      {
        flags: '--key-file <path>',
        summary: 'a file with the key of the image, or a password that the options call key',
        of: ['--image', '--qemu'],
      },
      { flags: '--ceph-user <name>', summary: 'whose keyring is used (default: admin)', of: ['--rbd'] },
      { flags: '--ceph-conf <path>', summary: 'the configuration of Ceph', of: ['--rbd'] },
    ],
    also: ['nbdTimeout', 'journal', 'direct', 'exclusive'],
  },
}

function instanceOf(value: unknown): string {
  if (typeof value === 'string' && /^[0-9a-f]{16}$/.test(value)) return value
  throw wrongType(`instance must be 16 digits of 0-9 and a-f, not ${nameOf(value)}`)
}

function absolute(backend: QemuBackend): QemuBackend {
  const { keyFile, directory = '.' } = backend
  const key = keyFile === undefined ? undefined : resolve(keyFile)
  return { ...backend, keyFile: key, directory: resolve(directory) }
}

import module from 'node:module'
import { UblkError } from '../errors.js'

/** Systems by `process.platform`, as people call them. */
const SYSTEMS: Record<string, string> = {
  darwin: 'macOS',
  win32: 'Windows',
  freebsd: 'FreeBSD',
  android: 'Android',
}

/** The processors that there is a native part for, by `process.arch`. */
const PROCESSORS = ['x64', 'arm64']

/** What helps where a bundler has put it into another file. */
export const EXTERNAL = 'where a bundler is used, tell it that ublk-ts is external'

/** Why there is no native part for this system, processor or runtime, if there is none. */
export function unsupported(): UblkError | undefined {
  const { platform, arch } = process
  if (platform !== 'linux') {
    return new UblkError(
      'unsupported',
      `ublk-ts makes disks on Linux only, and this is ${SYSTEMS[platform] ?? platform}`,
      {
        hint: 'programs that use it can be written and type-checked here, and run in a virtual machine with Linux',
      },
    )
  }
  if (!PROCESSORS.includes(arch)) {
    return new UblkError('unsupported', `ublk-ts has native parts for x64 and arm64, and none for ${arch}`, {
      hint: 'it may be built from its source there',
    })
  }
  return undefined
}

/**
 * Loads the native part: from the directory of `url` if one was built there, else from the package for this machine.
 * Where there is none for this system, all that it exports throws when it is used: a program can be imported there, such as
 * a test that is skipped.
 *
 * @param url - Undefined where a bundler has made a CommonJS file.
 * @throws UblkError if there should be one.
 */
export function loadNative(url: string | undefined): object {
  if (unsupported()) return standIn()
  if (url === undefined) {
    throw new UblkError(
      'unsupported',
      'ublk-ts was bundled into a CommonJS file, where it cannot find its own files',
      {
        hint: EXTERNAL,
      },
    )
  }
  // Not by these names, `require` and a `createRequire` that is imported, which bundlers put their own in place of.
  const fromHere = module.createRequire(url)
  const found = ['gnu', 'musl'].flatMap(libc => {
    const name = `linux-${process.arch}-${libc}`
    return [`./ublk-ts.${name}.node`, `@ublk-ts/${name}`].flatMap(place => {
      const path = resolved(fromHere, place)
      return path === undefined ? [] : [{ libc, path }]
    })
  })
  // Not every package manager knows the libc of this machine, and installs only the one for it.
  const libcs = new Set(found.map(({ libc }) => libc))
  const fitting = libcs.size > 1 ? found.filter(({ libc }) => libc === libcOfNode()) : found
  const [first] = fitting
  if (!first) {
    throw new UblkError(
      'system',
      `the native part of ublk-ts for Linux on ${process.arch} is not installed`,
      {
        hint: `install ublk-ts again on this kind of machine, with optional dependencies; ${EXTERNAL}`,
      },
    )
  }
  try {
    return fromHere(first.path) as object
  } catch (cause) {
    const why = (cause instanceof Error ? cause.message : String(cause)).split('\n', 1)[0]
    throw new UblkError('system', `the native part of ublk-ts cannot be loaded: ${why}`, { cause })
  }
}

function resolved(fromHere: NodeJS.Require, place: string): string | undefined {
  try {
    return fromHere.resolve(place)
  } catch {
    return undefined
  }
}

/** The C library that Node itself uses. */
function libcOfNode(): string {
  Object.assign(process.report, { excludeNetwork: true }) // It would look up names.
  const { header } = process.report.getReport() as { header: { glibcVersionRuntime?: string } }
  return header.glibcVersionRuntime === undefined ? 'musl' : 'gnu'
}

/** In place of the native part: says why there is none when anything of it is called, constructed or read. */
function standIn(): object {
  const each = new Proxy(refuse, { get: refuse, apply: refuse, construct: refuse })
  return new Proxy({}, { get: () => each })
}

function refuse(): never {
  throw unsupported()
}

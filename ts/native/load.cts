// CommonJS, and alone: Node reads such a file faster, and the command line is made of such files.

/** The kinds of errors here, as `UblkErrorKind` has them. */
type Kind = 'unsupported' | 'system'
interface Details {
  readonly hint?: string
  readonly cause?: unknown
}
type MakeError = (kind: Kind, message: string, details: Details) => Error

/** Why there is no native part for a machine, and what to do. */
interface Refusal {
  readonly message: string
  readonly hint: string
}

/** Systems by `process.platform`, as people call them. */
const SYSTEMS: Record<string, string> = {
  darwin: 'macOS',
  win32: 'Windows',
  freebsd: 'FreeBSD',
  android: 'Android',
}

/** The processors that there is a native part for, by `process.arch`. */
const PROCESSORS = ['x64', 'arm64']

/** How the message begins where there should be one, and is not. */
const NATIVE_PART = 'the native part of ublk-ts'

/** What helps where a bundler has put it into another file. */
const EXTERNAL = 'where a bundler is used, tell it that ublk-ts is external'

/** Until the library has said how it makes its errors. */
let makeError: MakeError = (kind, message, { hint, cause }) =>
  Object.assign(new Error(message, cause === undefined ? undefined : { cause }), {
    name: 'UblkError',
    kind,
    hint,
  })

/** Has errors made as the library makes them. */
function makeErrorsBy(make: MakeError): void {
  makeError = make
}

/** Why there is no native part for this system or processor, if there is none. */
function unsupported(): Refusal | undefined {
  const { platform, arch } = process
  if (platform !== 'linux') {
    return {
      message: `ublk-ts makes disks on Linux only, and this is ${SYSTEMS[platform] ?? platform}`,
      hint: 'programs that use it can be written and type-checked here, and run in a virtual machine with Linux',
    }
  }
  if (!PROCESSORS.includes(arch)) {
    return {
      message: `ublk-ts has native parts for x64 and arm64, and none for ${arch}`,
      hint: 'it may be built from its source there',
    }
  }
  return undefined
}

/** The package with the native part that speaks with object stores too, in place of the plain one. */
const REMOTE = '@ublk-ts/remote'

/** Why the native part of {@link REMOTE} was not loaded although there is one. */
let remoteProblem: string | undefined

/** A native part in a file. */
interface Candidate {
  readonly libc: string
  readonly path: string
}

/**
 * Loads the native part: from the directory of `filename` if one was built there, else from the package for this machine.
 * One that speaks with object stores comes before the plain one. Where that fails, all that it exports throws when it is used:
 * a program can be imported there, such as a test that is skipped. Never throws: in Node 20, a CommonJS module that does ends
 * the process, though its import is caught.
 */
function loadNative(filename: string | undefined): object {
  const reason = unsupported()
  if (reason) return standIn(() => makeError('unsupported', reason.message, { hint: reason.hint }))
  if (filename === undefined) {
    const message = 'ublk-ts was bundled into another file, from where it cannot find its native part'
    return standIn(() => makeError('unsupported', message, { hint: EXTERNAL }))
  }
  // Not by `require` or an import, in place of which bundlers put their own.
  const fromHere = process.getBuiltinModule('node:module').createRequire(filename)
  const remote = candidates(fromHere, './ublk-ts-remote.', remotePackages(fromHere))
  const plain = candidates(fromHere, './ublk-ts.', { from: fromHere, prefix: '@ublk-ts/' })
  if (remote) {
    try {
      return fromHere(remote.path) as object
    } catch (cause) {
      remoteProblem = `the native part of ${REMOTE} cannot be loaded: ${firstLine(cause)}`
      if (!plain) return standIn(() => makeError('system', remoteProblem ?? '', { cause }))
    }
  }
  if (!plain) {
    const hint = `install ublk-ts again on this kind of machine, with optional dependencies; ${EXTERNAL}`
    return standIn(() =>
      makeError('system', `${NATIVE_PART} for Linux on ${process.arch} is not installed`, { hint }),
    )
  }
  try {
    return fromHere(plain.path) as object
  } catch (cause) {
    return standIn(() =>
      makeError('system', `${NATIVE_PART} cannot be loaded: ${firstLine(cause)}`, { cause }),
    )
  }
}

/** Where packages with native parts are found, and how their names begin. */
interface Packages {
  readonly from: NodeJS.Require
  readonly prefix: string
}

/** The native part for this machine: one that was built here, or that of a package. */
function candidates(fromHere: NodeJS.Require, built: string, packages?: Packages): Candidate | undefined {
  const found = ['gnu', 'musl'].flatMap(libc => {
    const name = `linux-${process.arch}-${libc}`
    const path =
      resolved(fromHere, `${built}${name}.node`) ??
      (packages && resolved(packages.from, `${packages.prefix}${name}`))
    return path === undefined ? [] : [{ libc, path }]
  })
  // Not every package manager knows the libc of this machine, and installs only the one for it.
  const libcs = new Set(found.map(({ libc }) => libc))
  const [first] = libcs.size > 1 ? found.filter(({ libc }) => libc === libcOfNode()) : found
  return first
}

/**
 * Those of {@link REMOTE}, if it is installed. They are its own dependencies: some package managers let nobody else find them.
 * Another version of it is not used, since it would not fit.
 */
function remotePackages(fromHere: NodeJS.Require): Packages | undefined {
  const main = resolved(fromHere, REMOTE)
  if (main === undefined) return undefined
  const from = process.getBuiltinModule('node:module').createRequire(main)
  const version = (find: NodeJS.Require, file: string): unknown =>
    (find(file) as { version?: unknown }).version
  try {
    const [ours, its] = [version(fromHere, '../package.json'), version(from, './package.json')]
    if (its === ours) return { from, prefix: `${REMOTE}-` }
    remoteProblem = `${REMOTE} is of version ${its}, and ublk-ts of ${ours}: install the same of both`
  } catch (error) {
    remoteProblem = `${REMOTE} cannot be read: ${firstLine(error)}`
  }
  return undefined
}

function firstLine(cause: unknown): string {
  return (cause instanceof Error ? cause.message : String(cause)).split('\n', 1)[0] ?? ''
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

/** In place of the native part: throws when anything of it is called, constructed or read. */
function standIn(error: () => Error): object {
  function refuse(): never {
    throw error()
  }
  const each = new Proxy(refuse, { get: refuse, apply: refuse, construct: refuse })
  return new Proxy({}, { get: () => each })
}

interface Loader {
  readonly EXTERNAL: string
  readonly NATIVE_PART: string
  readonly loadNative: (filename: string | undefined) => object
  readonly REMOTE: string
  readonly makeErrorsBy: (make: MakeError) => void
  /** Why the native part of {@link REMOTE} was not loaded although there is one. */
  readonly remoteProblem: () => string | undefined
  readonly unsupported: () => Refusal | undefined
}
const loader: Loader = {
  EXTERNAL,
  NATIVE_PART,
  REMOTE,
  loadNative,
  makeErrorsBy,
  remoteProblem: () => remoteProblem,
  unsupported,
}
export = loader

import type { Json } from '../json.js'
import type { Filling } from '../runtime/lazy-fetcher.js'

/** A backend described by data: its kind, and the options of that kind. */
export interface Described {
  readonly kind: string
}

/** All that the package knows about a kind of backend. Each kind is one file, and an entry in the list of kinds. */
export interface Kind<Backend extends Described = Described> {
  readonly name: Backend['kind']
  /** Whether native threads serve it. */
  readonly native: boolean
  /** Whether other backends can be composed of it. */
  readonly stackable: boolean
  /** Whether a lazy disk can be below it, too. */
  readonly takesLazy?: boolean
  /** Whether any native backend can be below it, and it can be below others where that backend can. */
  readonly transparent?: boolean
  /** Its options of `ublk-ts create`. */
  readonly commandLine?: CommandLine

  /**
   * Makes the backend again from its fields, which may have been written by hand.
   *
   * @throws UblkError of kind `invalid` if one is wrong.
   */
  check(backend: Backend): Backend

  /** The backends that it consists of. */
  below?(backend: Backend): readonly Described[]
  /** The same backend, with other parts. */
  withBelow?(backend: Backend, below: readonly Described[]): Backend

  /** Its options for the native part. Those that are undefined are left out. */
  toNative?(backend: Backend): object
  /**
   * Its form in a record, from which another process with another working directory can make it again. By default, all
   * its fields.
   *
   * @throws UblkError of kind `invalid` if that is not possible.
   */
  toRecord?(backend: Backend): object

  /** Whether its size is that of the disk below it. */
  readonly sameSize?: boolean
  /** Its size in bytes, if it does not depend on what is opened. */
  size?(backend: Backend): number | undefined
  /** The same with the size of an existing disk. */
  ofSize?(backend: Backend, size: number): Backend
  /** The same without a claim on its file. */
  withoutClaim?(backend: Backend): Backend
  /** The files that its server uses. */
  paths?(backend: Backend): readonly string[]
  /** Where its data is if that is in memory: the path of a file, or null for memory of the server. */
  memory?(backend: Backend): string | null | undefined
  /** The same with its data where that outlives the server. `made` is called with the file that is created for that. */
  lasting?(backend: Backend, made: (path: string) => void): Backend
  /** The field with the path of that file. */
  readonly lastingIn?: string
  /** Where to get the bytes that it lacks, if JavaScript has to be asked. */
  filling?(backend: Backend): Filling | undefined
  /**
   * The same with what has to be asked elsewhere, before it can be opened.
   *
   * @throws UblkError of kind `backend`; the signal's reason if it was aborted.
   */
  prepare?(backend: Backend, signal: AbortSignal): Promise<Backend>
  /** The same without the disks below it that it does not read any more: these are not {@link prepare | prepared}. */
  withoutUnneeded?(backend: Backend): Promise<Backend>

  /** What distinguishes it from others of its kind, for people: a path, or a few words. May be empty. */
  label(backend: Backend): string
}

/** The values of the command's options, by their names in camel case. */
export type Flags = Readonly<Record<string, unknown>>

/** The options of `ublk-ts create` that belong to a kind. */
export interface CommandLine {
  /** The options that each make a backend of this kind. */
  readonly mains?: readonly MainOption[]
  /** Further options. */
  readonly more?: readonly CommandOption[]
  /** Names of options of other kinds that `mains` take too. */
  readonly also?: readonly string[]
  /** The main options of other kinds with which `more` can be combined, and how it wraps their backend. */
  readonly over?: {
    readonly main: readonly string[]
    readonly make: (backend: Described, flags: Flags) => Described
  }
}

/** The option that makes a backend, and how. */
export interface MainOption extends CommandOption {
  readonly make: (value: string, flags: Flags) => Described
}

/** One option, as commander defines it. */
export interface CommandOption {
  /** Such as `--mem <size>`. */
  readonly flags: string
  readonly summary: string
  /**
   * Reads its value; `earlier`: the value so far, if it was given before. An error's message is a sentence, such as
   * `It must be JSON.`.
   */
  readonly parse?: (text: string, earlier?: unknown) => unknown
  /** The main options that it is for, if not all of its kind. */
  readonly of?: readonly string[]
}

/** A backend in JSON. */
export type DescribedJson = { kind: string } & { [option: string]: Json }

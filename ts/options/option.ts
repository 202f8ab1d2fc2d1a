/** What the table of options says of each one. */
export interface Option {
  /** The values that it takes. */
  readonly takes: Values
  /** What it does, in a plain sentence without a capital letter and a full stop. Code is between backticks. */
  readonly help: string
  /** Further paragraphs of its TSDoc. */
  readonly more?: string
  /** Its default: the value, or words. */
  readonly byDefault?: string | number | boolean
  /** The kernel that it needs; `for`: the values that need it, if others do not. */
  readonly kernel?: { readonly version: string; readonly for?: string }
  /**
   * `create`: the device keeps it, so another server does not give it again. `serve`: it concerns the server, and
   * `UblkDevice.recover()` takes it too.
   */
  readonly scope: 'create' | 'serve'
  /** True if there is no default. */
  readonly required?: true
  /** True if it describes a call rather than the device: it is not in `DeviceOptions`, nor in a record. */
  readonly call?: true
  /** False if a record has it elsewhere. */
  readonly recorded?: false
  /** False if the native part does not get it under this name. */
  readonly native?: false
  /** How the command line has it. The name of its flag in camel case is that of the option. */
  readonly cli?: {
    /** Such as `--queues <n>`. */
    readonly flags: string
    /** What the flag does, if `help` does not say it: it turns something off, or adds to a list. */
    readonly help?: string
    /** The only flag that it goes with. */
    readonly with?: string
    /** Reads its value. `earlier`: the value so far of a flag that may be repeated. */
    readonly parse?: (text: string, earlier: unknown) => unknown
  }
}

/** The values that an option takes. */
export type Values =
  | Count
  | { readonly type: 'size'; readonly rule: SizeRule }
  | { readonly type: 'flag' }
  | Choices
  | Other

/** A whole number. */
export interface Count {
  readonly type: 'count'
  readonly min: number
  readonly max: number
  /** The command line takes seconds for milliseconds. */
  readonly unit?: 'milliseconds' | 'microseconds'
  /** The meaning of 0. */
  readonly zero?: string
}

/** Which sizes are possible; `block` is the logical block size of the disk. */
export type SizeRule =
  | { readonly of: readonly number[] }
  | { readonly powerOfTwo: true; readonly min: 'block'; readonly max: number }
  | { readonly multipleOf: number; readonly min: number; readonly max: number }
  | { readonly multipleOf: 'block'; readonly max: number }

/** One of several words. */
export interface Choices extends Named {
  readonly type: 'choice'
  readonly of: Readonly<Record<string, Choice>>
}

/** One of these words. */
export interface Choice {
  /** What it means, in a few words. */
  readonly help: string
  /** Further sentences of its TSDoc. */
  readonly more?: string
  /** The kernel that it needs. */
  readonly kernel?: string
}

/** A type in TypeScript. */
interface Named {
  readonly name?: string
  /** The file that declares it, if it is not built in; as seen from this folder. */
  readonly from?: string
}

/** Values with a type of their own. */
export interface Other extends Named {
  readonly type: 'other'
  readonly name: string
  /** @throws UblkError of kind `invalid`. */
  readonly check: (value: unknown) => void
  /** The values in words, for programs and for the command line. */
  readonly words?: { readonly api?: string; readonly cli?: string }
}

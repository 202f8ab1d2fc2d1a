/** What all devices of a run share. */
export interface World {
  /** Where their files are. */
  readonly dir: string
  /** How long anything may take, in milliseconds. */
  readonly bound: number
  /** How long a command takes to start, in milliseconds: signals hit it at any moment of its life. */
  readonly start: number
  /** How long to wait between two looks, in milliseconds: they cost something, too. */
  readonly pause: number
  /** What the driver can do. */
  readonly features: ReadonlySet<string>
}

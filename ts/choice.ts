/** How requests come from the driver, and answers go back; see `DeviceOptions.transport`. */
export type Transport = 'per-io' | 'batch'

/** How the data of requests comes and goes; see `DeviceOptions.copy`. */
export type CopyMode = 'copy' | 'user' | 'zero'

/** In which of the driver's ways a disk is served, and why. */
export interface ServingChoice {
  /** How its requests travel. */
  transport: Transport
  /** Why so, in a few words. */
  transportBecause: string
  /** How their data travels. */
  copy: CopyMode
  /** Why so, in a few words. */
  copyBecause: string
}

/** What `auto` means for disks of a kind. */
export interface AutoChoice {
  /** Their kind of backend: `memory`, `file`, `null`; or `javascript`, if it is written in JavaScript. */
  backend: string
  /** What is chosen for them. */
  choice: ServingChoice
}

/** How requests come from the driver, and answers go back; see `DeviceOptions.transport`. */
export type Transport = 'per-io' | 'batch'

/** How the data of requests gets to the backend and back; see `DeviceOptions.copy`. */
export type CopyMode = 'copy' | 'user' | 'zero'

/** The transport and copy mode of a disk, and why they were chosen. */
export interface ServingChoice {
  /** How its requests travel. */
  transport: Transport
  /** The reason, in a few words. */
  transportBecause: string
  /** How their data travels. */
  copy: CopyMode
  /** The reason, in a few words. */
  copyBecause: string
}

/** What `auto` means for disks of a kind. */
export interface AutoChoice {
  /** Their kind of backend: `memory`, `file`, `null`; or `javascript`, if it is written in JavaScript. */
  backend: string
  /** What is chosen for them. */
  choice: ServingChoice
}

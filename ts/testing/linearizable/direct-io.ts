/** Milliseconds of the monotonic clock, which all threads share. */
export function now(): number {
  const [seconds, nanoseconds] = process.hrtime()
  return seconds * 1000 + nanoseconds / 1e6
}

/** No library of types that is used here has it. */
declare const WebAssembly: {
  readonly Memory: new (size: { initial: number }) => { readonly buffer: ArrayBuffer }
}

/** Memory that begins at a page, as direct I/O needs it. Node's own buffers may begin anywhere. */
export function pages(bytes: number): ArrayBuffer {
  return new WebAssembly.Memory({ initial: Math.ceil(bytes / 65536) }).buffer
}

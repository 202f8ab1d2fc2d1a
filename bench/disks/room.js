/**
 * Memory for a disk. WebAssembly's begins at a page, as the engine's own does. What `new Uint8Array(size)` gets begins 16
 * bytes behind one, and there are processors that take twice as long to copy much to there; shared memory is copied word
 * by word.
 */
export function room(size) {
  return new Uint8Array(new WebAssembly.Memory({ initial: size / 65536 }).buffer)
}

/** Reads values of the command line's options. An error's message is a sentence, to follow the option's name. */

/** Reads a number of seconds. */
export function parseSeconds(text: string): number {
  const value = Number(text)
  // The limit of a timer, in whole seconds.
  if (/^\d+(\.\d+)?$/.test(text) && value <= 2147483) return value
  throw new Error('It must be a number of seconds.')
}

/** Reads JSON. */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    throw new Error('It must be JSON.')
  }
}

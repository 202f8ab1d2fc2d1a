/**
 * Text of others, such as names of processes and mount points, for a log, a terminal or a message of one line: control
 * characters, which move a terminal's cursor or begin a line, become `\n`, `\t` or `\x1b`, as they are written in a string.
 */
export function printable(text: string): string {
  return text.replace(CONTROLS, character => NAMES[character] ?? code(character))
}

/** The control characters of ASCII, those of Latin-1, and Unicode's own ends of a line. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const CONTROLS = /[\x00-\x1f\x7f-\x9f\u2028\u2029]/g

const NAMES: { readonly [character: string]: string } = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }

function code(character: string): string {
  const digits = character.charCodeAt(0).toString(16)
  return digits.length > 2 ? `\\u${digits}` : `\\x${digits.padStart(2, '0')}`
}

/**
 * Escapes the control characters in a text from outside, such as the name of a process or mount point, for a log, a
 * terminal or a message: they would move a terminal's cursor or begin a line, and become `\n`, `\t` or `\x1b`.
 */
export function printable(text: string): string {
  return text.replace(CONTROLS, character => NAMES[character] ?? code(character))
}

/** The control characters of ASCII, those of Latin-1, and Unicode's own ends of a line. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are the characters to escape
const CONTROLS = /[\x00-\x1f\x7f-\x9f\u2028\u2029]/g

const NAMES: { readonly [character: string]: string } = { '\n': '\\n', '\r': '\\r', '\t': '\\t' }

function code(character: string): string {
  const digits = character.charCodeAt(0).toString(16)
  return digits.length > 2 ? `\\u${digits}` : `\\x${digits.padStart(2, '0')}`
}

/**
 * Breaks the lines of a text that are too long. Lines that are indented stay as they are, since they are examples; but in a
 * list of names and meanings, which two spaces divide, the meaning is broken.
 */
export function wrapText(text: string, width: number): string {
  return paragraphsOf(text)
    .map(lines => lines.flatMap(line => wrapLine(line, width)).join('\n'))
    .join('\n')
}

/** Lines that are not indented, and follow each other, are one: a source breaks them where it likes. */
function paragraphsOf(text: string): string[][] {
  const paragraphs: string[][] = []
  let open = false
  for (const line of text.split('\n')) {
    const prose = line !== '' && !line.startsWith(' ')
    const last = paragraphs.at(-1)
    if (open && prose && last) last[0] = `${last[0]} ${line}`
    else paragraphs.push([line])
    open = prose && !line.endsWith(':')
  }
  return paragraphs
}

function wrapLine(line: string, width: number): string[] {
  if (line.length <= width) return [line]
  const [, term = ''] = /^( +\S(?:\S| (?! ))* {2,})\S/.exec(line) ?? []
  if (term === '' && line.startsWith(' ')) return [line]
  const words = line.slice(term.length).split(' ')
  const lines: string[] = []
  let current = term
  const indent = ' '.repeat(term.length)
  for (const word of words) {
    const longer = current.trim() === '' || current === term ? current + word : `${current} ${word}`
    if (longer.length > width && current.trim() !== '' && current !== term) {
      lines.push(current)
      current = indent + word
    } else current = longer
  }
  return [...lines, current]
}

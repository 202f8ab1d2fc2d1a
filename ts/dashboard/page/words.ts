/** Numbers in words, and elements of the page. */

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB']

/** `1.5 MiB`. */
export function bytes(value: number): string {
  let [scaled, unit] = [value, 0]
  while (scaled >= 1023.95 && unit < UNITS.length - 1) {
    scaled /= 1024
    unit++
  }
  return `${short(scaled)} ${UNITS[unit]}`
}

/** `12.5k`. */
export function count(value: number): string {
  if (value < 999.95) return short(value)
  if (value < 999_950) return `${short(value / 1000)}k`
  if (value < 999_950_000) return `${short(value / 1e6)}M`
  return `${short(value / 1e9)}G`
}

/** A time in microseconds: `12.5 ms`. */
export function time(micros: number): string {
  if (micros === 0) return '–'
  if (micros < 999.95) return `${short(micros)} µs`
  if (micros < 999_950) return `${short(micros / 1000)} ms`
  return `${short(micros / 1e6)} s`
}

/** At most one digit behind the point. */
function short(value: number): string {
  if (value >= 99.95 || Number.isInteger(value)) return value.toFixed(0)
  return value.toFixed(value < 9.95 ? (value < 0.995 ? 2 : 1) : 1)
}

/** An element of the page, which has it. */
export function get<E extends HTMLElement = HTMLElement>(id: string): E {
  return document.getElementById(id) as E
}

/** A new element. Its text is text, whatever stands in it. */
export function element<Name extends keyof HTMLElementTagNameMap>(
  name: Name,
  { text, ...properties }: { text?: string } & { [property: string]: string | undefined } = {},
  ...children: readonly Node[]
): HTMLElementTagNameMap[Name] {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(properties))
    if (value !== undefined) made.setAttribute(key, value)
  if (text !== undefined) made.textContent = text
  made.append(...children)
  return made
}

/** Changes a text only if it is another one: the browser has less to do. */
export function say(node: Node, text: string): void {
  if (node.textContent !== text) node.textContent = text
}

/** The value of a colour of the style. */
export function colour(name: string): string {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()
}

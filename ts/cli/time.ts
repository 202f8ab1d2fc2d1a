/** Writes a time in microseconds with three digits or so: `950ns`, `26.4us`, `1.25ms`, `31s`. */
export function formatTime(micros: number): string {
  if (micros === 0) return '0'
  const [unit, length] = UNITS.find(([, length]) => round(micros / length) < 1000) ?? LAST
  return `${round(micros / length)}${unit}`
}

const LAST: readonly [unit: string, micros: number] = ['s', 1e6]
const UNITS: readonly (readonly [unit: string, micros: number])[] = [
  ['ns', 0.001],
  ['us', 1],
  ['ms', 1000],
  LAST,
]

function round(value: number): number {
  return Number(value.toFixed(value < 10 ? 2 : value < 100 ? 1 : 0))
}

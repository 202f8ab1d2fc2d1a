// What a row of figures says.

/** The value below which `part` of the values lie. */
export function quantile(values, part) {
  const sorted = values.toSorted((a, b) => a - b)
  const at = (sorted.length - 1) * part
  const [low, high] = [sorted[Math.floor(at)], sorted[Math.ceil(at)]]
  return low + (high - low) * (at - Math.floor(at))
}

export function median(values) {
  return quantile(values, 0.5)
}

/** The ratios of two rows, pair by pair, and how they are spread. */
export function ratios(values, base) {
  const pairs = values.map((value, at) => value / base[at])
  return {
    median: median(pairs),
    quartiles: [quantile(pairs, 0.25), quantile(pairs, 0.75)],
    range: [Math.min(...pairs), Math.max(...pairs)],
  }
}

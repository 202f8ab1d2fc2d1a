import type { Reading, Readings } from '../watch/readings.js'
import { complain } from './output.js'

/** Returns a function that reads all devices; it leaves out those whose server does not answer, and reports each once. */
export function answeringDevices(readings: Readings): () => Promise<Reading[]> {
  const told = new Set<string>()
  return async () => {
    const all = await readings.all()
    for (const { device, trouble } of all) {
      const why = trouble && `${device.path} is left out: ${trouble.message}`
      if (why && !told.has(why)) complain(why)
      if (why) told.add(why)
    }
    return all.filter(({ trouble }) => !trouble)
  }
}

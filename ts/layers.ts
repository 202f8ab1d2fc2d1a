import type * as native from '#binding'
import { wrap } from './errors.js'
import type { DiskLayer } from './info.js'

/** What was written over the base of an overlay that this process serves. */
export function layersOf(device: native.Device): DiskLayer[] {
  try {
    return device.layers().map(layer => ({ ...layer, path: layer.path ?? null }))
  } catch (error) {
    throw wrap(error)
  }
}

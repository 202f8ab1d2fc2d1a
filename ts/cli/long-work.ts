import type { UblkDevice } from '../device.js'
import { idOf } from '../remote/names.js'
import { loadApi } from './load-api.js'
import { type Amount, shown } from './progress.js'

/** What `ublk-ts` has a disk do that takes long: it shows how far that is, and ends it on Ctrl-C. */
export async function longWork(
  device: string,
  begin: (disk: UblkDevice, signal: AbortSignal) => Promise<void>,
  look: (disk: UblkDevice) => Promise<Amount | undefined>,
): Promise<void> {
  const id = idOf(device)
  const { UblkDevice } = await loadApi()
  const { interrupts } = await import('../daemon/interrupts.js')
  const { first: signal } = interrupts({ hangup: 'end' })
  const disk = await UblkDevice.open(id)
  await shown(begin(disk, signal), async () => await look(disk))
}

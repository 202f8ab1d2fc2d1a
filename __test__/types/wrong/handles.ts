import { UblkDevice } from 'ublk-ts'

const handle = await UblkDevice.open(7)

// error: Property 'start' does not exist on type 'UblkDevice'
await handle.start()

// error: Property 'share' does not exist on type 'UblkDevice'
await handle.share('/dev/shm/pool')

// error: Property 'release' does not exist on type 'UblkDevice'
await handle.release()

// error: Property 'reduce' does not exist on type 'QueueStats[] | Promise<QueueStats[]>'
handle.stats().reduce(() => 0, 0)

// error: Constructor of class 'UblkDevice' is protected
new UblkDevice(await handle.info())

/** What there is to do with a device. */
import {
  autoChoices,
  type CopyMode,
  concat,
  file,
  memory,
  nullDisk,
  type ServedDevice,
  type StackableBackend,
  slice,
  stripe,
  UblkDevice,
  UblkError,
} from 'ublk-ts'

const { signal } = new AbortController()
await using disk = await UblkDevice.create({
  backend: memory('16M'),
  blockSize: '4K',
  maxIo: 2 ** 20,
  signal,
})
await UblkDevice.create({ backend: nullDisk(2 ** 30), id: 7, start: false })
await UblkDevice.create({ backend: file(new URL('file:///disk.img'), { direct: true }), writeCache: false })
await UblkDevice.create({ backend: nullDisk('1G'), transport: 'batch', copy: 'auto' })
const disks: StackableBackend[] = [file('a'), slice(memory('1M'), { offset: 4096, size: '64K' })]
await UblkDevice.create({ backend: stripe([concat(disks), nullDisk('1G')], { chunk: '64K' }) })

disk.on('exit', ({ reason }) => reason.length)
disk.on('error', ({ kind, hint }) => [kind, hint?.length])
const written: number | undefined = disk.stats()[0]?.write.bytes
const served: ServedDevice = disk
const handle: UblkDevice = disk
const elsewhere: number | undefined = (await handle.stats())[0]?.write.bytes
await handle.trace(records => records[0]?.op, { signal })
await handle.resize('32M', { force: true })
const why: string | undefined = disk.choice?.copyBecause
const usual: CopyMode[] = (await autoChoices()).map(({ choice }) => choice.copy)
try {
  await (await UblkDevice.open(7)).delete({ wait: true, signal })
} catch (error) {
  if (!(error instanceof UblkError) || error.kind !== 'busy') throw error
}

export { elsewhere, served, usual, why, written }

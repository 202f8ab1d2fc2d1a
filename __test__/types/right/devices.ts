/** What there is to do with a device. */
import { autoChoices, type CopyMode, file, memory, nullDisk, UblkDevice, UblkError } from 'ublk-ts'

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

disk.on('exit', ({ reason }) => reason.length)
disk.on('error', ({ kind, hint }) => [kind, hint?.length])
const written: number | undefined = disk.stats()[0]?.write.bytes
const why: string | undefined = disk.choice?.copyBecause
const usual: CopyMode[] = (await autoChoices()).map(({ choice }) => choice.copy)
try {
  await (await UblkDevice.open(7)).delete({ wait: true, signal })
} catch (error) {
  if (!(error instanceof UblkError) || error.kind !== 'busy') throw error
}

export { usual, why, written }

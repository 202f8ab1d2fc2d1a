import { UblkDevice } from 'ublk-ts'

const size = '1M'
const process = (): void => {}

// error: Type '"wirte"' is not assignable to type '"discard" | "flush" | "write" | "writeZeroes"'
await UblkDevice.create({ backend: { size, operations: ['wirte'], process } })

// error: Type '"read"' is not assignable to type '"discard" | "flush" | "write" | "writeZeroes"'
await UblkDevice.create({ backend: { size, operations: ['read'], process } })

// error: 'proces' does not exist in type 'Backend'
await UblkDevice.create({ backend: { size, proces: process } })

// error: Type 'number' is not assignable to type 'void | Promise<void>'
await UblkDevice.create({ backend: { size, process: batch => batch.count } })

await UblkDevice.create({
  backend: {
    size,
    process(batch) {
      // error: Expected 2 arguments, but got 1
      batch.complete(0)
    },
  },
})

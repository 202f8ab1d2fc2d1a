import { type DiskBackend, UblkDevice } from 'ublk-ts'

const size = '1M'
const read = (): void => {}

// error: Property 'read' is missing in type '{ size: string; write: () => void; }'
await UblkDevice.create({ backend: { size, write: () => {} } })

// error: Property 'read' is missing in type '{ size: string; }'
await UblkDevice.create({ backend: { size } })

// error: 'reed' does not exist in type 'Backend'
await UblkDevice.create({ backend: { size, reed: () => {} } })

// error: 'wirte' does not exist in type 'Backend'
await UblkDevice.create({ backend: { size, read, wirte: () => {} } })

// error: Property 'size' is missing in type '{ read: () => void; }'
await UblkDevice.create({ backend: { read } })

// error: Type 'bigint' is not assignable to type 'Size'
await UblkDevice.create({ backend: { size: 4096n, read } })

// error: Type 'number' is not assignable to type 'void | Promise<void>'
await UblkDevice.create({ backend: { size, read: () => 5 } })

// error: Type 'Promise<string>' is not assignable to type 'void | Promise<void>'
await UblkDevice.create({ backend: { size, read: async () => 'done' } })

await UblkDevice.create({
  backend: {
    size,
    read,
    // error: Types of parameters 'from' and 'from' are incompatible
    write: (request, from: string) => void from.at(request.offset),
  },
})

await UblkDevice.create({
  backend: {
    size,
    read(request) {
      // error: Cannot assign to 'offset' because it is a read-only property
      request.offset = 0
    },
  },
})

const misspelt = { size, reed: read }
// error: Property 'read' is missing in type '{ size: string; reed: () => void; }'
await UblkDevice.create({ backend: misspelt })

const answers = { size, read: () => 5 }
// error: The types returned by 'read(...)' are incompatible
await UblkDevice.create({ backend: answers })

export class Disk implements DiskBackend {
  size = size
  // error: Property 'read' in type 'Disk' is not assignable to the same property in base type 'DiskBackend'
  read(): number {
    return 5
  }
}

import { writeFileSync } from 'node:fs'

const CLUSTER = 2 ** 16

/** Writes an empty qcow2 image of version 3, for machines without qemu-img. At most 512 MiB. */
export function writeImage(path: string, size: number): void {
  const image = Buffer.alloc(4 * CLUSTER) // header, L1 table, refcount table, block of reference counts
  const fields: [offset: number, bytes: 4 | 8, value: number][] = [
    [0, 4, 0x514649fb], // QFI and 0xfb
    [4, 4, 3],
    [20, 4, 16],
    [24, 8, size],
    [36, 4, 1],
    [40, 8, CLUSTER],
    [48, 8, 2 * CLUSTER],
    [56, 4, 1],
    [96, 4, 4],
    [100, 4, 104],
    [2 * CLUSTER, 8, 3 * CLUSTER],
  ]
  for (const [offset, bytes, value] of fields) {
    if (bytes === 4) image.writeUInt32BE(value, offset)
    else image.writeBigUInt64BE(BigInt(value), offset)
  }
  for (let cluster = 0; cluster < 4; cluster++) image.writeUInt16BE(1, 3 * CLUSTER + 2 * cluster)
  writeFileSync(path, image)
}

/**
 * A disk whose file holds only ciphertext: AES-256-XTS, each 4 KiB block under its own number, as dm-crypt does it
 * with `sector_size:4096` and `plain64`.
 */
import { createCipheriv, createDecipheriv } from 'node:crypto'
import { closeSync, fdatasyncSync, fstatSync, openSync, readSync, writeSync } from 'node:fs'
import { defineBackend } from 'ublk-ts'

const BLOCK = 4096

export interface Options {
  /** Of an existing file; its size is the disk's. */
  path: string
  /** 64 bytes: both keys of XTS. */
  key: Uint8Array
}

export default defineBackend(({ path, key }: Options) => {
  const file = openSync(path, 'r+')
  const plain = Buffer.alloc(BLOCK)
  const tweak = Buffer.alloc(16)
  const tweakOf = (offset: number): Buffer => {
    tweak.writeBigUInt64LE(BigInt(offset / BLOCK))
    return tweak
  }
  return {
    size: Math.floor(fstatSync(file).size / BLOCK) * BLOCK,
    blockSize: BLOCK,
    read(request, into) {
      readSync(file, into, 0, into.length, request.offset)
      for (let at = 0; at < into.length; at += BLOCK) {
        const decipher = createDecipheriv('aes-256-xts', key, tweakOf(request.offset + at))
        into.set(decipher.update(into.subarray(at, at + BLOCK)), at)
      }
    },
    write(request, from) {
      for (let at = 0; at < from.length; at += BLOCK) {
        const cipher = createCipheriv('aes-256-xts', key, tweakOf(request.offset + at))
        plain.set(from.subarray(at, at + BLOCK))
        writeSync(file, cipher.update(plain), 0, BLOCK, request.offset + at)
      }
      if (request.fua) fdatasyncSync(file)
    },
    flush: () => fdatasyncSync(file),
    close: () => closeSync(file),
  }
})

import { readFileSync } from 'node:fs'
import test from 'ava'
import { leaveNothingBehind } from '../support/devices.js'
import { sh } from '../support/program.js'
import { Server } from '../support/server.js'

leaveNothingBehind(test)

const FILE = '/tmp/ublk-ts-discard.img'
const MEBIBYTES = 64

test.after.always(() => sh('rm -f "$1"', FILE))

const fill = (path: string) =>
  sh(
    `head -c ${MEBIBYTES}M /dev/urandom | dd of="$1" bs=1M iflag=fullblock oflag=direct conv=nocreat status=none`,
    path,
  )
const isZero = (path: string) =>
  sh(`dd if="$1" bs=1M iflag=direct status=none | cmp -n ${MEBIBYTES * 2 ** 20} - /dev/zero`, path)

/** Mebibytes that a process holds. */
function resident(pid: number): number {
  return (Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1]) * 4096) / 2 ** 20
}

/** Mebibytes that a file takes. */
async function allocated(): Promise<number> {
  return (Number(await sh('stat -c %b "$1"', FILE)) * 512) / 2 ** 20
}

for (const command of ['blkdiscard', 'blkdiscard -z']) {
  test(`${command} on memory: reads back zeroes and gives the memory back`, async t => {
    await Server.with(`--mem ${MEBIBYTES}M`, async ({ path, pid }) => {
      await fill(path)
      const full = resident(pid)
      await sh(`${command} "$1"`, path)
      const given = full - resident(pid)
      t.true(given > MEBIBYTES * 0.9, `${given} MiB of ${MEBIBYTES} given back`)
      await isZero(path)
    })
  })

  test(`${command} on a file: reads back zeroes`, async t => {
    await sh(`rm -f "$1"; truncate -s ${MEBIBYTES}M "$1"`, FILE)
    await Server.with(`--file ${FILE}`, async ({ path }) => {
      await fill(path)
      t.true((await allocated()) >= MEBIBYTES)
      await sh(`${command} "$1"`, path)
      await isZero(path)
      if (command === 'blkdiscard') t.true((await allocated()) < 1)
    })
  })
}

test('a discard of a part leaves the rest', async t => {
  await Server.with(`--mem ${MEBIBYTES}M`, async ({ path }) => {
    await fill(path)
    const sums = await sh('sha256sum <(head -c 1M "$1") <(tail -c +3145729 "$1") | cut -c1-64', path)
    await sh('blkdiscard -o 1M -l 2M "$1"; sync; blockdev --flushbufs "$1"', path)
    t.is(await sh('sha256sum <(head -c 1M "$1") <(tail -c +3145729 "$1") | cut -c1-64', path), sums)
    await sh('dd if="$1" bs=1M skip=1 count=2 status=none | cmp -n 2097152 - /dev/zero', path)
  })
})

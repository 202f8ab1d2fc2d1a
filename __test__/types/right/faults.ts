import { type FaultRule, faults, file, memory, stripe, UblkDevice } from 'ublk-ts'

export const rules: FaultRule[] = [
  { errno: 'EIO' },
  { op: 'write', nth: 3, errno: 'ENOSPC' },
  { op: ['write', 'writeZeroes'], full: '10M' },
  { delay: 5, inTurn: true },
  { op: 'read', delay: { from: '80us', to: '2ms' }, probability: 0.1 },
  { delay: { mean: '5ms', deviation: '1ms' } },
  { rate: '10M', burst: '100M' },
  { iops: 300, burst: 5_400_000 },
  { op: 'flush', hang: true, times: 1 },
  { meta: true, lose: true },
  { misdirect: '1M', every: 10 },
  { tear: 512, after: 5 },
  { op: 'read', corrupt: true, range: { offset: 0, length: '1M' } },
]

export const stack = stripe([memory('1M'), faults(memory('1M'), rules)])

export async function change(): Promise<number | undefined> {
  await using disk = await UblkDevice.create({
    backend: faults(file('a.img'), { profile: 'hdd-7200', seed: 7 }),
  })
  await disk.faults.set(rules)
  await disk.faults.set({ rules, profile: 'nvme-plp' })
  const { rules: counts, hanging } = await disk.faults.get()
  return counts[0]?.applied ?? hanging + (await disk.faults.thaw())
}

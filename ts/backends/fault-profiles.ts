import type { FaultRule } from './fault-rules.js'

/**
 * A kind of device, whose times a disk takes:
 *
 * - `hdd-7200`: a hard disk with 7200 revolutions a minute
 * - `ssd-sata-consumer`: a SATA SSD without protection against power loss
 * - `nvme-plp`: an NVMe SSD for servers, with protection against power loss
 * - `cloud-volume`: a volume in a cloud, of 100 GiB, with credits
 */
export type ProfileName = 'hdd-7200' | 'ssd-sata-consumer' | 'nvme-plp' | 'cloud-volume'

/** A profile: its rules, and where each figure comes from. */
export interface Profile {
  readonly rules: readonly FaultRule[]
  readonly sources: readonly string[]
  /** What fio is to find with requests of 4 KiB at random places: microseconds at queue depth 1, and requests a second. */
  readonly expected: {
    readonly read: { readonly latency: number; readonly iops: number }
    readonly write: { readonly latency: number; readonly iops: number }
    readonly flush: number
  }
}

/** All profiles. A disk that is slower than its profile stays so: rules only add time. */
export const PROFILES: Readonly<Record<ProfileName, Profile>> = {
  'hdd-7200': {
    // A head that moves serves one request after the other: a seek, up to one revolution (8.33 ms), and the transfer.
    rules: [
      { op: ['read', 'write'], sequential: false, delay: { mean: '8.2ms', deviation: '2ms' }, inTurn: true },
      { op: ['read', 'write'], sequential: false, delay: { from: 0, to: '8.33ms' }, inTurn: true },
      { op: ['read', 'write'], rate: '175MB' },
      { op: 'flush', delay: { from: 0, to: '8.33ms' }, inTurn: true },
    ],
    sources: [
      'average seek 8.2 ms: HGST Ultrastar 7K4000 (SAS) Hard Disk Drive Specification, table 6, typical',
      'rotational latency 4.16 ms on average, at most one revolution of 8.33 ms; 175 MB/s: Seagate Constellation ES.3 SAS Product Manual, section 4.1',
      'deviation of seeks, 2 ms: an estimate; no document gives it',
      'flush, at most a revolution: an estimate, the time until the next sector passes; it depends on what is cached',
    ],
    expected: {
      read: { latency: 12_360, iops: 122 },
      write: { latency: 12_360, iops: 122 },
      flush: 4_165,
    },
  },
  'ssd-sata-consumer': {
    rules: [
      { op: 'read', delay: '77us' },
      { op: 'write', delay: '28us' },
      { op: 'flush', delay: '3.5ms', inTurn: true },
      { op: 'read', iops: 98_000 },
      { op: 'write', iops: 88_000 },
      { op: 'read', rate: '560MB' },
      { op: 'write', rate: '530MB' },
    ],
    sources: [
      '13,000 reads and 36,000 writes a second at queue depth 1, which is 77 and 28 µs each; 98,000 and 88,000 at queue depth 32; 560 and 530 MB/s: Samsung SSD 870 EVO Data Sheet',
      'flush 3.5 ms: Percona, “Why Consumer SSD Reviews are Useless for Database Performance Use Case” (2018), measured with a Samsung 960 Pro',
    ],
    expected: {
      read: { latency: 77, iops: 98_000 },
      write: { latency: 28, iops: 88_000 },
      flush: 3_500,
    },
  },
  'nvme-plp': {
    rules: [
      { op: 'read', sequential: false, delay: '85us' },
      { op: 'read', sequential: true, delay: '10us' },
      { op: 'write', sequential: false, delay: '20us' },
      { op: 'write', sequential: true, delay: '13us' },
      { op: 'flush', delay: { from: '12us', to: '58us' } },
      { op: 'read', iops: 490_000 },
      { op: 'write', iops: 38_000 },
      { op: 'read', rate: '3200MB' },
      { op: 'write', rate: '1050MB' },
    ],
    sources: [
      'latencies 85, 10, 20 and 13 µs; 490,000 reads and 38,000 writes a second; 3.2 and 1.05 GB/s: Lenovo Press, product guide of the Intel P4500 Entry NVMe SSDs, table 2, 2.0 TB',
      'flush 12 to 58 µs: M. Callaghan, “SSDs, power loss protection and fsync latency” (2026), drives with protection',
    ],
    expected: {
      read: { latency: 85, iops: 490_000 },
      write: { latency: 20, iops: 38_000 },
      flush: 35,
    },
  },
  'cloud-volume': {
    rules: [
      { op: ['read', 'write', 'flush'], delay: { mean: '1ms', deviation: '0.15ms' } },
      { op: ['read', 'write'], iops: 300, burst: 5_400_000 },
      { op: ['read', 'write'], iops: 3_000 },
      { op: ['read', 'write'], rate: '128M' },
    ],
    sources: [
      '300 requests a second (3 for each GiB) and 5.4 million credits, with which 3,000 are possible; 128 MiB/s: Amazon EBS User Guide, “General Purpose SSD volumes”, gp2 of up to 170 GiB',
      'latency 1 ms: the least that the same document promises, “single-digit millisecond”; its deviation is an estimate',
    ],
    expected: {
      read: { latency: 1_000, iops: 3_000 },
      write: { latency: 1_000, iops: 3_000 },
      flush: 1_000,
    },
  },
}

import type { StoredVolume } from '../info.js'
import { formatSize } from '../size.js'

/** How much is not in the store, such as `1.2 MiB`. */
export function behindText({ serving, behind }: StoredVolume): string {
  return serving ? formatSize(behind) : 'stopped'
}

/** All of it in a few words. */
export function volumeText(volume: StoredVolume): string {
  const { serving, behind, behindSeconds, stored, live, cached, failures } = volume
  const words = [
    serving ? '' : 'stopped: somebody else has opened it',
    behind > 0 ? `${formatSize(behind)} not stored, for ${Math.ceil(behindSeconds)} s` : 'all stored',
    `${formatSize(stored)} in the store, ${formatSize(live)} of it in use`,
    `${formatSize(cached)} cached`,
    failures > 0 ? `${failures} requests failed` : '',
  ]
  return words.filter(Boolean).join('; ')
}

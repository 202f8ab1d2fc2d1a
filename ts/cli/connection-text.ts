import type { ServerConnection } from '../info.js'
import { formatSize } from '../size.js'

/** Whether there is a connection, such as `yes`; of several servers, with how many. */
export function connectedText({ servers, connected }: ServerConnection): string {
  if (servers > 1) return `${connected}/${servers}`
  return connected > 0 ? 'yes' : 'no'
}

/** All of it in a few words. */
export function connectionText(connection: ServerConnection): string {
  const { servers, connected, lost, reconnects, losses, journalMax, journalBytes, journalWrites } = connection
  const words = [
    servers > 1 ? `${connected} of ${servers} connected` : connected > 0 ? 'connected' : 'not connected',
    lost > 0 ? `lost ${lost}, made again ${reconnects}` : '',
    losses > 0 ? `writes perhaps lost ${losses}` : '',
    journalMax > 0
      ? `${journalWrites} writes (${formatSize(journalBytes)}) of ${formatSize(journalMax)} in the journal`
      : '',
  ]
  return words.filter(Boolean).join('; ')
}

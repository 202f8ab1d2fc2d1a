import type { DeviceInfo } from '../info.js'

/** A stopped one without a server is dead; a live one whose server was killed stays live for a moment. */
export function stateOf({ state, pid, serverAlive }: DeviceInfo): string {
  const dead = state === 'stopped' ? pid === 0 : state === 'live' && !serverAlive
  return dead ? 'dead' : state
}

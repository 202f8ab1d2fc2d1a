/** The token, which the server wants with every request but that for this page. */

/** For this tab alone, and until it is closed: the page may be loaded again. Ports have storage of their own, unlike cookies. */
const KEY = 'ublk-ts-token'

/** Takes the token out of the address, where others could see it. Whether one was there. */
export function takeToken(): boolean {
  const [, token] = /^#token=([\w-]{43})$/.exec(location.hash) ?? []
  if (token === undefined) return false
  sessionStorage.setItem(KEY, token)
  history.replaceState(null, '', location.pathname)
  return true
}

function token(): string {
  return sessionStorage.getItem(KEY) ?? ''
}

/** Opens a stream of events. It can have no headers. */
export function eventsOf(path: string): EventSource {
  return new EventSource(`${path}?token=${token()}`)
}

/** Asks the server to do something. */
export async function post(path: string): Promise<Response> {
  return await fetch(path, { method: 'POST', headers: { authorization: `Bearer ${token()}` } })
}

import { needsRemote } from '../../backends/needs-remote.js'
import { wrap } from '../../errors.js'
import { type Check, found, type Status } from './check.js'

/** What the native part finds. */
type StoreProbe = Awaited<ReturnType<typeof import('#binding')['probeStore']>>

/** What a verdict on a store means for a disk there. */
const STATUS: Record<string, Status> = { sound: 'ok', unsound: 'FAIL', unknown: 'warn' }

/** Tries a store out, below a prefix of its own that it removes again. Throws if it cannot even be reached. */
export async function probeOf(url: string): Promise<StoreProbe> {
  await needsRemote('an object store')
  const { probeStore } = await import('#binding')
  return await probeStore(url).catch((error: unknown) => {
    throw wrap(error)
  })
}

/** What a probe found, as checks. */
export function storeChecks(probe: StoreProbe, environment: NodeJS.ProcessEnv): Check[] {
  const price = priceCheck(probe, environment)
  const [first, ...others] = probe.advice
  return [
    found('store', STATUS[probe.verdict] ?? 'warn', `${probe.store} is ${SAID[probe.verdict]}`, first),
    ...probe.findings.map(({ name, verdict, text }) => found(name, STATUS[verdict] ?? 'warn', text)),
    found('put', 'ok', `of 4 KiB: ${inWords(probe.put)}`),
    found('get', 'ok', `of 4 KiB: ${inWords(probe.get)}`),
    found(
      'speed',
      'ok',
      `${perSecond(probe.bytesPerSecondUp)} up, ${perSecond(probe.bytesPerSecondDown)} down`,
    ),
    ...others.map(advice => found('advice', 'ok', advice)),
    ...(price ? [price] : []),
    found('requests', 'ok', requestsOf(probe)),
  ]
}

const SAID: Record<string, string> = {
  sound: 'fit for disks',
  unsound: 'not fit for disks',
  unknown: 'perhaps fit for disks: not all could be tried',
}

function inWords({ samples, p50, p99 }: StoreProbe['put']): string {
  return `p50 ${p50.toFixed(1)} ms, p99 ${p99.toFixed(1)} ms, of ${samples}`
}

function perSecond(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB a second`
}

function requestsOf({ requests }: StoreProbe): string {
  const { puts, gets, lists, deletes, failures } = requests
  return `this took ${puts} PUTs, ${gets} GETs, ${lists} lists and ${deletes} DELETEs, of which ${failures} failed`
}

/** Amazon's list price in US dollars for a thousand PUTs: S3 Standard, us-east-1, 2026. */
const DOLLARS_FOR_1000_PUTS = 0.005

/** What flushes cost, where the price is known: at Amazon. */
function priceCheck({ store }: StoreProbe, environment: NodeJS.ProcessEnv): Check | undefined {
  const elsewhere = ['AWS_ENDPOINT_URL_S3', 'AWS_ENDPOINT_URL', 'AWS_ENDPOINT'].some(
    name => environment[name],
  )
  if (!store.startsWith('s3://') || elsewhere) return undefined
  const month = (30 * 24 * 3600 * DOLLARS_FOR_1000_PUTS) / 1000
  return found(
    'price',
    'ok',
    `a flush each second would cost about US$ ${month.toFixed(0)} a month, at Amazon's list price for S3 Standard in ` +
      `us-east-1 (US$ ${DOLLARS_FOR_1000_PUTS} for 1,000 PUTs); an idle disk makes no requests`,
  )
}

import { resolve } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { checkOptions } from '../check.js'
import { invalid } from '../errors.js'
import { parseJson } from '../option-values.js'
import type { BackendContext } from '../runtime/js-backend.js'
import { nameOf } from '../user-values.js'
import type { Kind } from './kind.js'

/** A disk written in JavaScript that is served by Workers; see {@link worker}. */
export interface WorkerBackend {
  readonly kind: 'worker'
  /** The URL of the module whose default export makes the backend. */
  readonly url: string
  /** For its factory; copied to each Worker as by `postMessage`. Or a function that returns them. */
  readonly options: unknown
}

/**
 * A disk written in JavaScript that is served by one Worker per queue: the fastest way. A Worker's thread sleeps in the
 * kernel until there are requests, so a synchronous backend costs no event loop and no promise. An asynchronous backend is
 * served from the Worker's event loop.
 *
 * @param url - The URL of a module whose default export is a {@link defineBackend} factory. TypeScript modules work if
 * Node runs TypeScript, or with the loader that this process was started with.
 * @param options - For the factory, copied to each Worker as by `postMessage`; SharedArrayBuffers are shared by all. Or a
 * function that is called on this thread for each Worker that starts, and returns the options: a `MessagePort` among
 * their properties is transferred to that Worker.
 *
 * @example
 * ```ts
 * worker(new URL('./my-disk.js', import.meta.url), { size: 2 ** 30 })
 * ```
 */
export function worker<Options>(
  url: URL | string,
  options?: Options | ((context: BackendContext) => Options),
): WorkerBackend {
  const text = url instanceof URL ? url.href : url
  if (typeof text !== 'string' || !URL.canParse(text)) {
    throw invalid(`${text === '' ? 'the url' : nameOf(text)} is no URL`, WORKER_HINT)
  }
  return { kind: 'worker', url: text, options }
}

const WORKER_HINT = "use new URL('./disk.js', import.meta.url)"

/** See {@link worker}. */
export const workerKind: Kind<WorkerBackend> = {
  name: 'worker',
  native: false,
  stackable: false,
  check: ({ kind: _, url, options, ...others }) => {
    checkOptions<object>(others, 'worker()', {})
    return worker(url, options)
  },
  paths: ({ url }) => (url.startsWith('file:') ? [fileURLToPath(url)] : []),
  label: ({ url }) => url,
  commandLine: {
    mains: [
      {
        flags: '--worker <module>',
        summary: 'a disk written in JavaScript: a file, or a URL',
        make: (module, { workerOptions }) => worker(moduleUrl(module), workerOptions),
      },
    ],
    more: [{ flags: '--worker-options <json>', summary: 'the argument for its factory', parse: parseJson }],
  },
}

function moduleUrl(module: string): string {
  if (module === '') throw invalid('the path of the module is empty')
  return /^(file|data|node):/.test(module) ? module : pathToFileURL(resolve(module)).href
}

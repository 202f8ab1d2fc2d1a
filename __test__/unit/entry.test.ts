import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import test from 'ava'

const root = fileURLToPath(new URL('../../', import.meta.url))

/** The JSON that a script prints which may import the package. */
function told(script: string, ...options: string[]): unknown {
  const words = [...options, '--input-type=module', '--eval', script]
  return JSON.parse(execFileSync(process.execPath, words, { cwd: root, encoding: 'utf8' }))
}

test('importing the package adds no listener, opens nothing and starts nothing', t => {
  const script = `
    import { readdirSync, readlinkSync } from 'node:fs'
    import './dist/size.js' // What Node needs to load a module at all.
    const look = () => ({
      listeners: process.eventNames().map(name => [String(name), process.listenerCount(name)]),
      files: readdirSync('/proc/self/fd').length,
      threads: readdirSync('/proc/self/task').length,
      resources: process.getActiveResourcesInfo(),
      environment: Object.keys(process.env).length,
    })
    const before = look()
    const { UblkDevice } = await import('ublk-ts')
    console.log(JSON.stringify({ name: UblkDevice.name, before, after: look() }))`
  const { name, before, after } = told(script) as { name: string; before: object; after: object }
  t.is(name, 'UblkDevice')
  t.deepEqual(after, before)
})

/** Hooks that pass on the URL of each module that is loaded. */
const HOOKS = `
  let port
  export const initialize = data => { port = data.port }
  export const load = (url, context, next) => {
    port.postMessage(url)
    return next(url, context)
  }`

test('importing the package loads no module of the daemon, the command line or a worker', t => {
  const script = `
    import { register } from 'node:module'
    import { MessageChannel } from 'node:worker_threads'
    const { port1, port2 } = new MessageChannel()
    const urls = []
    port1.on('message', url => urls.push(url)).unref()
    register('data:text/javascript,' + encodeURIComponent(${JSON.stringify(HOOKS)}), {
      data: { port: port2 },
      transferList: [port2],
    })
    await import('ublk-ts')
    await new Promise(resolve => setTimeout(resolve, 100))
    console.log(JSON.stringify(urls))`
  const urls = told(script, '--no-warnings') as string[]
  const ours = urls.map(url => /\/dist\/(.*)\.js$/.exec(url)?.[1]).filter(name => name !== undefined)
  t.true(ours.includes('index') && ours.includes('device'), `${ours}`)
  t.deepEqual(
    ours.filter(name => /^(daemon\/|cli\/|watch\/|runtime\/worker)/.test(name)),
    [],
  )
})

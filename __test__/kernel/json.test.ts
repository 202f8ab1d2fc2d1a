// seconds: 25
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import { leaveNoServerBehind } from '../support/detached.js'
import { run, sh } from '../support/program.js'
import { faultsOf } from '../support/schema.js'

leaveNoServerBehind(test)

/** The client in another language that the documents show. */
const CLIENT = fileURLToPath(new URL('../../examples/control-client.py', import.meta.url))

test('what every command prints with --json is as the schema says, and a server answers a client in Python', async t => {
  const told = async (command: string, ...words: string[]): Promise<string> => {
    const { status, stdout, stderr } = await run(...words)
    t.deepEqual([status, stderr], [0, ''], `${words}`)
    t.is(faultsOf(stdout, command), '', `${words}`)
    return stdout
  }
  await sh('rm -f /tmp/json.*; truncate -s 16M /tmp/json.img')
  await told('list', ...'create --detach --json --id 3 --mem 16M --fault op=write,nth=9,errno=EIO'.split(' '))
  await told(
    'list',
    ...'create --detach --json --id 4 --file /tmp/json.img --track /tmp/json.map --recovery reissue'.split(
      ' ',
    ),
  )
  await told(
    'list',
    ...'create --detach --json --id 5 --mem 16M --overlay /tmp/json.cow --name over'.split(' '),
  )
  t.is(JSON.parse(await told('list', 'list', '--json')).ublkdevices.length, 3)
  await told('list', 'show', '3', '4', '5', '--json')
  await told('list', 'list', '--json', '--output', 'path,name')
  await told('stats', 'stats', '--json')
  await told('rates', ...'stats --json --interval 0.2 --count 1 --by-queue 4'.split(' '))
  await told('features', 'features', '--json')
  await told('fault', 'fault', '3', '--json')
  await told('upgrade', 'upgrade', '4', '--json')
  t.is((await run('checkpoint', '4', 'monday')).status, 0)
  await told('checkpoints', 'checkpoints', '4', '--json')
  const traced = run('trace', '4', '--json', '--count', '1')
  for (let done = false; !done; ) {
    await sh('dd if=/dev/zero of=/dev/ublkb4 bs=4k count=1 oflag=direct status=none; sleep 0.2')
    done = await Promise.race([traced.then(() => true), sh('sleep 0.1').then(() => false)])
  }
  t.is(faultsOf((await traced).stdout, 'trace'), '')
  await told('changed', 'changed', '4', '--since', 'monday', '--json')
  const python = async (...words: string[]): Promise<string> => await sh('python3 "$@"', CLIENT, ...words)
  t.like(JSON.parse(await python('5', 'layers'))[0], { path: '/tmp/json.cow', written: true })
  t.is(await python('4', 'resize', 'size=32M'), 'null\n')
  t.is(await sh('stat --format %s /tmp/json.img'), `${2 ** 25}\n`)
  await t.throwsAsync(python('4', 'resize', 'size=1'), { message: /the size 1 is not possible \(-32602\)/ })
  await t.throwsAsync(python('4', 'rezise'), { message: /the server knows no 'rezise' \(-32601\)/ })
  const recorded = await told('list', ...'crash record --mem 4M --json'.split(' '))
  const { path } = JSON.parse(recorded).ublkdevices[0]
  await sh('dd if=/dev/urandom of="$1" bs=4k count=8 oflag=direct status=none', path)
  await run('crash', 'states', path, '--budget', '2', '--shrink', '--json', '/tmp/json.report', '--', 'false')
  t.is(faultsOf(readFileSync('/tmp/json.report', 'utf8'), 'crash-states'), '')
  t.is((await run('delete', '--all')).status, 0)
})

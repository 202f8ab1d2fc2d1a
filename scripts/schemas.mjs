#!/usr/bin/env node
// usage: scripts/schemas.mjs [--check]
//
// Writes schema/cli.json: what each command prints with --json, as JSON Schema (2020-12). Names and descriptions of columns are
// those of the compiled command line; the types of their values are below. With --check it only says whether the file is as it
// has to be.
import { readFileSync, writeFileSync } from 'node:fs'
import { checkpointColumns } from '../dist/cli/checkpoint.js'
import { deviceColumns } from '../dist/cli/device-table.js'
import { choiceColumns, featureColumns } from '../dist/cli/features.js'
import { snapshotColumns } from '../dist/cli/snapshot.js'
import { rateColumns, totalColumns } from '../dist/cli/stats-rows.js'

const FILE = 'schema/cli.json'

/** `text`, `integer`, `number` or `boolean`; with `?` also null; with `[]` a list. Anything else is a definition. */
function type(word) {
  if (word.endsWith('[]')) return { type: 'array', items: type(word.slice(0, -2)) }
  const name = word.replace('?', '')
  const plain = { text: 'string', integer: 'integer', number: 'number', boolean: 'boolean' }[name]
  if (plain) return { type: word.endsWith('?') ? [plain, 'null'] : plain }
  const reference = { $ref: `#/$defs/${name}` }
  return word.endsWith('?') ? { anyOf: [reference, { type: 'null' }] } : reference
}

/** A row whose columns have these types, by their names in small letters. */
function row(columns, types) {
  const names = columns.map(({ name }) => name.toLowerCase())
  const wrong = [
    ...names.filter(name => !(name in types)),
    ...Object.keys(types).filter(name => !names.includes(name)),
  ]
  if (wrong.length > 0) throw new Error(`scripts/schemas.mjs does not match the columns: ${wrong}`)
  const properties = columns.map(({ name, summary }) => [
    name.toLowerCase(),
    { description: summary, ...type(types[name.toLowerCase()]) },
  ])
  return {
    type: 'object',
    description: 'All columns, or those that --output names.',
    properties: Object.fromEntries(properties),
  }
}

/** An object with all of these fields. */
function object(types, description) {
  const properties = Object.fromEntries(Object.entries(types).map(([name, word]) => [name, type(word)]))
  return { ...(description && { description }), type: 'object', required: Object.keys(types), properties }
}

const device = row(deviceColumns, {
  id: 'integer',
  path: 'text',
  name: 'text?',
  state: 'text',
  size: 'integer',
  ro: 'boolean',
  backend: 'text?',
  source: 'text?',
  stack: 'stack?',
  layers: 'layer[]',
  flattened: 'progress?',
  committed: 'progress?',
  moved: 'progress?',
  queues: 'integer',
  depth: 'integer',
  'log-sec': 'integer',
  'phy-sec': 'integer',
  'max-io': 'integer',
  cache: 'boolean',
  fua: 'boolean',
  rota: 'boolean',
  'disc-gran': 'integer',
  'disc-max': 'integer',
  'zero-max': 'integer',
  chunk: 'integer',
  'opt-io': 'integer',
  'segs-max': 'integer',
  'seg-max': 'integer',
  sched: 'text?',
  pid: 'integer?',
  alive: 'boolean',
  server: 'text?',
  char: 'text',
  transport: 'text',
  'transport-why': 'text?',
  copy: 'text',
  'copy-why': 'text?',
  uid: 'integer',
  gid: 'integer',
  flags: 'text[]',
  log: 'text?',
  users: 'text[]',
  present: 'integer?',
  dirty: 'integer?',
  'present-max': 'integer?',
  fetched: 'integer?',
  'fetch-fail': 'integer?',
  filling: 'text?',
  connection: 'connection?',
  volume: 'volume?',
})

const counted = { id: 'integer', path: 'text', queue: 'integer?', op: 'text' }
const times = {
  mean: 'number?',
  p50: 'number?',
  p90: 'number?',
  p99: 'number?',
  p999: 'number?',
  max: 'number?',
}

const definitions = {
  list: object(
    { ublkdevices: 'device[]' },
    'list, show; create, run, recover, fork and crash record in one line',
  ),
  stats: object({ stats: 'count[]' }, 'stats'),
  rates: object({ stats: 'rate[]' }, 'stats --interval: a line for each interval'),
  trace: object(
    {
      time: 'number',
      queue: 'integer',
      tag: 'integer',
      op: 'text',
      offset: 'integer',
      length: 'integer',
      fua: 'boolean',
      meta: 'boolean',
      failFast: 'boolean',
      swap: 'boolean',
      done: 'integer',
      error: 'text?',
      faults: 'integer[]',
      latency: 'number',
    },
    'trace: a line for each request; time in milliseconds since 1970, latency in microseconds',
  ),
  features: { ...object({ features: 'feature[]' }, 'features; without --output also choices') },
  doctor: object({ checks: 'check[]' }, 'doctor'),
  'doctor-store': object({ checks: 'check[]', store: 'store' }, 'doctor with an object store'),
  changed: object(
    { since: 'text', size: 'integer', known: 'boolean', bytes: 'integer', ranges: 'range[]' },
    'changed',
  ),
  checkpoints: object({ checkpoints: 'checkpoint[]' }, 'checkpoints'),
  snapshots: object({ snapshots: 'snapshot[]' }, 'snapshots'),
  fault: object({ rules: 'rule[]', seed: 'integer', hanging: 'integer' }, 'fault without rules'),
  upgrade: object({ id: 'integer', 'old-pid': 'integer', pid: 'integer', 'paused-ms': 'number' }, 'upgrade'),
  move: object({ id: 'integer', backend: 'text', bytes: 'integer', seconds: 'number' }, 'move'),
  'crash-states': object(
    {
      log: 'text',
      command: 'text[]',
      states: 'integer',
      failed: 'integer',
      failures: 'failure[]',
      earliest: 'failure?',
      least: 'state?',
      seconds: 'number',
    },
    'the file of crash states --json',
  ),
  device,
  count: row(totalColumns, {
    ...counted,
    ops: 'integer',
    bytes: 'integer',
    errors: 'integer',
    ...times,
    'in-flight': 'integer',
    turns: 'integer',
    layers: 'layer[]',
    connection: 'connection?',
    volume: 'volume?',
  }),
  rate: row(rateColumns, {
    ...counted,
    'ops/s': 'number',
    'bytes/s': 'number',
    'errors/s': 'number',
    ...times,
    'in-flight': 'integer',
    'turns/s': 'number',
  }),
  feature: row(featureColumns, {
    feature: 'text',
    have: 'boolean',
    since: 'text',
    bit: 'integer',
    summary: 'text',
  }),
  choice: row(choiceColumns, {
    backend: 'text',
    transport: 'text',
    'transport-why': 'text',
    copy: 'text',
    'copy-why': 'text',
  }),
  checkpoint: row(checkpointColumns, { name: 'text', made: 'text', known: 'boolean' }),
  snapshot: row(snapshotColumns, { name: 'text', made: 'text', size: 'integer' }),
  check: {
    ...object({ check: 'text', status: 'text', detail: 'text', remedy: 'text?' }),
  },
  store: object(
    {
      store: 'text',
      verdict: 'text',
      findings: 'finding[]',
      put: 'latency',
      get: 'latency',
      bytesPerSecondUp: 'integer',
      bytesPerSecondDown: 'integer',
      advice: 'text[]',
      requests: 'requests',
    },
    'latencies in milliseconds',
  ),
  finding: object({ name: 'text', verdict: 'text', text: 'text' }, 'verdict: sound, unsound or unknown'),
  latency: object({ samples: 'integer', p50: 'number', p99: 'number' }),
  requests: object({
    puts: 'integer',
    gets: 'integer',
    lists: 'integer',
    deletes: 'integer',
    failures: 'integer',
    bytesUp: 'integer',
    bytesDown: 'integer',
  }),
  range: object({ offset: 'integer', length: 'integer' }),
  layer: object({ path: 'text?', bytes: 'integer', written: 'boolean' }),
  progress: object({ done: 'integer', size: 'integer' }),
  connection: object({
    servers: 'integer',
    connected: 'integer',
    lost: 'integer',
    reconnects: 'integer',
    losses: 'integer',
    unflushed: 'integer',
    journalBytes: 'integer',
    journalWrites: 'integer',
    journalMax: 'integer',
  }),
  volume: object({
    serving: 'boolean',
    behind: 'integer',
    behindSeconds: 'number',
    written: 'integer',
    sent: 'integer',
    received: 'integer',
    puts: 'integer',
    gets: 'integer',
    lists: 'integer',
    deletes: 'integer',
    failures: 'integer',
    stored: 'integer',
    live: 'integer',
    cached: 'integer',
  }),
  stack: {
    type: 'object',
    description: 'A backend, as --backend takes it; those that it consists of are in its fields.',
    required: ['kind'],
    properties: { kind: { type: 'string' } },
  },
  rule: object({ rule: 'effect', ofProfile: 'boolean', considered: 'integer', applied: 'integer' }),
  effect: { type: 'object', description: 'A rule, as the option rules of faults() takes it.' },
  loss: object({
    write: 'integer',
    op: 'text',
    offset: 'integer',
    length: 'integer',
    meta: 'boolean',
    how: 'text',
  }),
  state: object({ id: 'text', marks: 'text[]', lost: 'loss[]' }),
  failure: object({
    id: 'text',
    marks: 'text[]',
    lost: 'loss[]',
    end: 'text',
    output: 'text',
    seconds: 'number',
    again: 'text',
  }),
}
definitions.features.properties.choices = type('choice[]')
definitions.fault.properties.profile = type('text')
definitions.check.properties.status = { enum: ['ok', 'warn', 'FAIL'] }

const schema = {
  $schema: 'https://json-schema.org/draft/2020-12/schema',
  title: 'What the commands of ublk-ts print with --json',
  description:
    'A command is a definition: validate the output of `ublk-ts list --json` against #/$defs/list. Sizes are in bytes, times of requests in microseconds. Later versions may add fields.',
  $defs: definitions,
}
const wanted = `${JSON.stringify(schema, undefined, 2)}\n`
const path = new URL(`../${FILE}`, import.meta.url)
if (!process.argv.includes('--check')) writeFileSync(path, wanted)
else if (readFileSync(path, 'utf8') !== wanted) {
  process.stderr.write(`${FILE} does not match the command line: run npm run generate\n`)
  process.exitCode = 1
}

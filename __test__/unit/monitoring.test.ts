import { readFileSync } from 'node:fs'
import { parser } from '@prometheus-io/lezer-promql'
import test from 'ava'
import { parse } from 'yaml'
import { openMetrics } from '../../dist/watch/openmetrics.js'
import { parseOpenMetrics } from '../support/openmetrics.js'
import { everything } from '../support/readings.js'

// What docs/monitoring has for Prometheus and Grafana asks for metrics and labels that ublk-ts metrics has.

const read = (name: string): string =>
  readFileSync(new URL(`../../docs/monitoring/${name}`, import.meta.url), 'utf8')

/** The metrics of a text, and the labels of each. */
async function known(): Promise<Map<string, Set<string>>> {
  const metrics = new Map<string, Set<string>>()
  for (const { samples } of parseOpenMetrics(await openMetrics([everything()])).values()) {
    for (const { name, labels } of samples) {
      const all = metrics.get(name) ?? new Set(['instance', 'job']) // these are Prometheus's own
      for (const label of Object.keys(labels)) all.add(label)
      metrics.set(name, all)
    }
  }
  return metrics
}

/** What is wrong with an expression: its form, or a metric or label that there is not. */
function wrongs(expression: string, metrics: ReadonlyMap<string, ReadonlySet<string>>): string[] {
  const found: string[] = []
  const names: string[] = []
  const labels: string[] = []
  // Grafana replaces its variables by such words.
  const text = expression.replaceAll('$__rate_interval', '5m')
  parser.parse(text).iterate({
    enter: ({ name, from, to, type }) => {
      const word = text.slice(from, to)
      if (type.isError) found.push(`the form, at ${text.slice(Math.max(from - 10, 0), to + 10)}`)
      else if (name === 'VectorSelector') names.push(/^[\w:]+/.exec(word)?.[0] ?? word)
      else if (name === 'LabelName') labels.push(word)
    },
  })
  if (names.length === 0) found.push('no metric')
  const possible = names.flatMap(name => [...(metrics.get(name) ?? [])])
  return [
    ...found,
    ...names.filter(name => !metrics.has(name)),
    ...labels.filter(label => !possible.includes(label)),
  ]
}

test('a wrong expression is found', async t => {
  const metrics = await known()
  t.deepEqual(wrongs('sum by (device) (rate(ublk_bytes_total{op="read"}[5m])) > 0', metrics), [])
  t.deepEqual(wrongs('ublk_upp == 0', metrics), ['ublk_upp'])
  t.deepEqual(wrongs('sum by (disk) (ublk_up)', metrics), ['disk'])
  t.deepEqual(wrongs('ublk_up{queue="0"}', metrics), ['queue'])
  t.true(wrongs('sum(ublk_up', metrics).length > 0)
  t.deepEqual(wrongs('1 > 0', metrics), ['no metric'])
})

interface Rule {
  readonly alert: string
  readonly expr: string
  readonly for: string
  readonly labels: { readonly severity: string }
  readonly annotations: { readonly summary: string; readonly description: string }
}

test('alert rules ask for what there is, and say what is wrong', async t => {
  const metrics = await known()
  const { groups, ...others } = parse(read('alerts.yml')) as {
    groups: { name: string; rules: Rule[] }[]
  }
  t.deepEqual(others, {})
  const rules = groups.flatMap(({ rules }) => rules)
  t.true(rules.length > 5)
  t.is(new Set(rules.map(({ alert }) => alert)).size, rules.length)
  for (const { alert, expr, for: time, labels, annotations, ...more } of rules) {
    t.deepEqual(more, {}, alert)
    t.regex(alert, /^Ublk[A-Z]\w+$/)
    t.deepEqual(wrongs(expr, metrics), [], alert)
    t.regex(time, /^\d+[smh]$/)
    t.true(['info', 'warning', 'critical'].includes(labels.severity), alert)
    for (const text of [annotations.summary, annotations.description]) {
      t.regex(text, /^[\s\S]+\.$/, alert)
      for (const [, what = ''] of text.matchAll(/\{\{(.*?)\}\}/g)) {
        t.regex(what, /^ \$(labels\.(device|instance|op)|value( \| humanize\w*)?) $/, alert)
      }
    }
  }
})

interface Panel {
  readonly id: number
  readonly type: string
  readonly title: string
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number }
  readonly datasource: { readonly type: string; readonly uid: string }
  readonly targets: readonly { readonly expr: string; readonly refId: string }[]
}

test("Grafana's dashboard asks for what there is, and its panels have room", async t => {
  const metrics = await known()
  const { panels, templating, schemaVersion, uid, title } = JSON.parse(read('grafana.json')) as {
    panels: Panel[]
    templating: { list: { name: string; type: string; definition?: string }[] }
    schemaVersion: number
    uid: string
    title: string
  }
  t.true(schemaVersion >= 36)
  t.true(uid.length > 0 && uid.length <= 40 && title.length > 0)
  t.is(new Set(panels.map(({ id }) => id)).size, panels.length)
  const taken = new Set<string>()
  for (const { type, title, gridPos, datasource, targets } of panels) {
    t.true(['stat', 'timeseries', 'heatmap', 'table'].includes(type), title)
    t.is(datasource.type, 'prometheus')
    t.is(datasource.uid.slice(1), '{source}')
    t.true(targets.length > 0, title)
    t.is(new Set(targets.map(({ refId }) => refId)).size, targets.length)
    for (const { expr } of targets) t.deepEqual(wrongs(expr, metrics), [], `${title}: ${expr}`)
    t.true(gridPos.x >= 0 && gridPos.x + gridPos.w <= 24, title)
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        t.false(taken.has(`${x} ${y}`), `${title} lies over another panel`)
        taken.add(`${x} ${y}`)
      }
    }
  }
  const variables = templating.list.map(({ name }) => name)
  t.deepEqual(variables, ['source', 'instance', 'device'])
  const used = [...read('grafana.json').matchAll(/\$\{?([a-z]\w*)/g)].map(([, name]) => name ?? '')
  t.deepEqual(
    used.filter(name => !variables.includes(name)),
    [],
  )
  for (const { definition } of templating.list) {
    const [, metric] = /^label_values\((\w+)/.exec(definition ?? '') ?? []
    if (definition !== undefined) t.true(metrics.has(metric ?? ''), definition)
  }
  // All metrics are shown somewhere, but for what tells how the server works.
  const unseen = [...metrics.keys()].filter(
    name => !panels.some(({ targets }) => targets.some(({ expr }) => expr.includes(name))),
  )
  t.deepEqual(unseen.sort(), [
    'ublk_lazy_fetches_total',
    'ublk_request_duration_seconds_count',
    'ublk_request_duration_seconds_sum',
    'ublk_turns_total',
  ])
})

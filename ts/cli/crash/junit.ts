import { againOf, failuresOf, lossesOf, type Report, whenOf } from './report.js'
import type { Trial } from './trials.js'

/** The report as test runners write it, in JUnit's XML: a test case for each state that was tried. */
export function junitOf(report: Report): string {
  const { log, trials, seconds, earliest, least } = report
  const found = [
    ...(earliest ? [`earliest failure: state ${earliest.state.id}, ${whenOf(earliest.state)}`] : []),
    ...(least ? [`fewest lost writes: state ${least.id}`, ...lossesOf(least)] : []),
  ]
  const suite = {
    name: `power cuts of ${log}`,
    tests: trials.length,
    failures: failuresOf(report).length,
    errors: 0,
    time: seconds.toFixed(3),
  }
  return [
    '<?xml version="1.0" encoding="UTF-8"?>',
    '<testsuites>',
    `<testsuite ${attributes(suite)}>`,
    ...trials.map(trial => testCase(report, trial)),
    ...(found.length > 0 ? [`<system-out>${escaped(found.join('\n'))}</system-out>`] : []),
    '</testsuite>',
    '</testsuites>',
    '',
  ].join('\n')
}

function testCase(report: Report, { state, verdict }: Trial): string {
  const about = { name: `state ${state.id}`, classname: whenOf(state), time: verdict.seconds.toFixed(3) }
  if (verdict.accepted) return `<testcase ${attributes(about)}/>`
  const text = [verdict.output.trimEnd(), ...lossesOf(state), againOf(report, state)].join('\n')
  const failure = `<failure ${attributes({ message: verdict.end, type: 'power cut' })}>${escaped(text)}</failure>`
  return `<testcase ${attributes(about)}>${failure}</testcase>`
}

function attributes(values: Readonly<Record<string, string | number>>): string {
  return Object.entries(values)
    .map(([name, value]) => `${name}="${escaped(`${value}`)}"`)
    .join(' ')
}

const ENTITIES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }

/** What XML has no form for, such as most control characters, becomes U+FFFD. */
function escaped(text: string): string {
  return text
    .replaceAll(/[^\t\n\r\x20-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, '\ufffd')
    .replaceAll(/[&<>"]/g, sign => ENTITIES[sign] ?? sign)
}

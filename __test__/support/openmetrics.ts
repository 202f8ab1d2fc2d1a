import { spawnSync } from 'node:child_process'

/** One sample of the text. */
export interface Sample {
  name: string
  labels: Record<string, string>
  value: number
}

const PARSE = `
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = text_string_to_metric_families(sys.stdin.read())
print(json.dumps({f.name: {'type': f.type, 'samples': [[s.name, s.labels, s.value] for s in f.samples]} for f in families}))`

/** Reads OpenMetrics text with the parser of Prometheus's own Python client, which refuses what is not well formed. */
export function parseOpenMetrics(text: string): Map<string, { type: string; samples: Sample[] }> {
  const { status, stdout, stderr, error } = spawnSync('/usr/bin/python3', ['-c', PARSE], {
    input: text,
    encoding: 'utf8',
  })
  if (error) throw error
  if (status !== 0) throw new Error(`no OpenMetrics text (python3-prometheus-client is needed): ${stderr}`)
  type Family = { type: string; samples: [string, Record<string, string>, number][] }
  const families: [string, Family][] = Object.entries(JSON.parse(stdout))
  const toSample = ([name, labels, value]: Family['samples'][number]): Sample => ({ name, labels, value })
  return new Map(
    families.map(([name, { type, samples }]) => [name, { type, samples: samples.map(toSample) }]),
  )
}

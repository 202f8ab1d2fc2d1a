import { execFileSync } from 'node:child_process'
import { readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

/** Where the site is. */
export const SITE: string = fileURLToPath(new URL('../../target/site/', import.meta.url))

/** Builds the site, unless it is there and as new as its sources; gives the names of its pages. */
export function buildSite(): string[] {
  const program = fileURLToPath(new URL('../../scripts/site', import.meta.url))
  execFileSync(program, ['--if-changed'], { stdio: ['ignore', 'pipe', 'pipe'], encoding: 'utf8' })
  return readdirSync(SITE, { recursive: true, encoding: 'utf8' })
    .filter(name => name.endsWith('.html'))
    .sort()
}

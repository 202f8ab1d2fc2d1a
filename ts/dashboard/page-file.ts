import { createHash } from 'node:crypto'
import { readFileSync } from 'node:fs'

/** The page, and what it may do. */
export interface PageFile {
  readonly html: Buffer
  /** Its Content-Security-Policy: nothing runs that is not in the page, and it talks to nobody but its server. */
  readonly policy: string
}

/** Reads the page that the build has put beside this file. */
export function readPage(): PageFile {
  const html = readFileSync(new URL('page.html', import.meta.url))
  const text = html.toString()
  const policy = [
    "default-src 'none'",
    `script-src ${hashes(text, 'script')}`,
    `style-src ${hashes(text, 'style')}`,
    "connect-src 'self'",
    'img-src data:',
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
  ]
  return { html, policy: policy.join('; ') }
}

function hashes(html: string, tag: string): string {
  const found = [...html.matchAll(new RegExp(`<${tag}>([\\s\\S]*?)</${tag}>`, 'g'))]
  const hash = (text = ''): string => createHash('sha256').update(text).digest('base64')
  return found.map(([, text]) => `'sha256-${hash(text)}'`).join(' ')
}

import { execFileSync } from 'node:child_process'
import { join } from 'node:path'

/** Sections of the manual page that a page of the site has anyway. */
const LEFT_OUT = ['NAME', 'SEE ALSO']

/**
 * The manual page as Markdown with headings, below which is HTML: mandoc makes that, and no Markdown, of such a page.
 *
 * @param root - The repository, with dist.
 */
export function manual(root) {
  const page = join(root, 'dist/man/ublk-ts.1')
  const html = execFileSync('mandoc', ['-T', 'html', '-O', 'fragment', page], { encoding: 'utf8' })
  const sections = html.matchAll(
    /<section class="Sh">\s*<h1[^>]*><a[^>]*>([^<]*)<\/a><\/h1>(.*?)(?=<section class="Sh">|<\/div>\s*<table class="foot">)/gs,
  )
  return Array.from(sections, ([, name, body]) => ({ name: name.replaceAll(/\s+/g, ' '), body }))
    .filter(({ name }) => !LEFT_OUT.includes(name))
    .map(({ name, body }) => `## ${name[0]}${name.slice(1).toLowerCase()}\n\n${markdown(body)}`)
    .join('\n')
}

function markdown(html) {
  return (
    html
      .replaceAll(/<\/?section[^>]*>\n?/g, '')
      .replaceAll(/<a class="permalink"[^>]*>|<\/a>/g, '')
      .replaceAll(/<h2[^>]*>(.*?)<\/h2>/gs, (_, name) => `\n### ${name.replaceAll(/\s+/g, ' ')}\n`)
      .replaceAll(/ (id|class)="[^"]*"/g, '')
      .replaceAll('<b></b>', '')
      .replaceAll(/<b>([^<]*?)(\s*)<\/b>/g, (_, text, space) => `<code>${text}</code>${space}`)
      // A blank line would end the HTML.
      .split(/\n(?=\n### )|(?<=\n### [^\n]*\n)/)
      .map(part => (part.startsWith('\n###') ? part : part.replaceAll(/\n\s*\n/g, '\n')))
      .join('\n')
  )
}

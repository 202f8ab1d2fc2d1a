import type { Subject } from './account.js'
import { heatMap } from './heat-map.js'
import { SCRIPT } from './script.js'
import { STYLE } from './style.js'
import { summary, tagged } from './summary.js'
import { rowsTold, table } from './table.js'
import { timeline } from './timeline.js'
import { escaped, exactly } from './words.js'

/** Nothing is loaded, and nothing runs that is not ours, whatever stands in the page. */
function policy(): string {
  const { createHash } = process.getBuiltinModule('node:crypto') // Every server loads this file, and few write a report.
  const hash = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`
  return `default-src 'none'; style-src ${hash(STYLE)}; script-src ${hash(SCRIPT)}; base-uri 'none'; form-action 'none'`
}

/** A report of a state after a power cut, as an HTML page that needs nothing else. */
export function reportPage(subject: Subject): string {
  const { title, id, account, shrunk } = subject
  const tags = tagged(subject)
  const told = rowsTold(account)
  const filters: readonly (readonly [string, string])[] = [
    ['all', 'all'],
    ...(shrunk && shrunk.lost.length > 0 ? ([['s', 'what matters']] as const) : []),
    ['l', 'lost'],
    ['k', 'kept'],
    ['d', 'durable'],
    ['i', 'in flight'],
    ['e', 'flushes and marks'],
  ]
  const choice = ([value, name]: readonly [string, string]): string =>
    `<label><input type=radio name=fate value=${value}${value === 'all' ? ' checked' : ''}><span>${name}</span></label>`
  return `<!doctype html>
<html lang=en>
<meta charset=utf-8>
<meta http-equiv=Content-Security-Policy content="${policy()}">
<meta name=viewport content="width=device-width, initial-scale=1">
<meta name=color-scheme content="light dark">
<title>${escaped(title)}</title>
<style>${STYLE}</style>
<header>
<p class=over>What a power cut left
<h1>${escaped(title)}</h1>
<dl class=facts><div><dt>state<dd><code>${escaped(id)}</code></div><div><dt>model<dd>${escaped(account.model)}</div><div><dt>disk<dd>${exactly(account.size)}, writes units of ${exactly(account.unit)} whole</div></dl>
</header>
<main>
<section>${summary(subject, tags)}</section>
<section>
<h2 id=tl-h>Timeline</h2>
<p class=aside id=tl-d>From the left to the right: what happened. From the top down: where on the disk, without what was never written. The table below says the same.</p>
${legend(shrunk !== undefined && shrunk.lost.length > 0)}
${timeline(subject, tags)}
<p id=detail>Point at a write, or choose a row of the table, to see what it is.</p>
</section>
<section>
<h2 id=hm-h>Map of the disk</h2>
<p class=legend><span><svg class=key><rect class=h1 width=12 height=12 /></svg>little was written</span><span><svg class=key><rect class=h4 width=12 height=12 /></svg>much</span><span><svg class=key><rect class=h2 width=12 height=12 /><path class=hb d="M6 6h.01" /><path class=ho d="M6 6h.01" /></svg>not durable, kept</span><span><svg class=key><rect class=hl width=12 height=12 /><path class=hx d="M3 3l6 6m0-6l-6 6" /></svg>lost</span></p>
${heatMap(account)}
<p class=aside id=cell>Choose a square to list its writes.</p>
</section>
<section>
<h2 id=all-h>All that happened</h2>
${told && `<p class=aside>${told}</p>`}
<form id=filter hidden>
<fieldset><legend>Show</legend>${filters.map(choice).join('')}</fieldset>
<label class=at>at byte <input name=at autocomplete=off spellcheck=false placeholder="first–last" size=18></label>
<button type=reset>Show all</button>
<output id=shown></output>
</form>
<div class=scroll tabindex=0 role=region aria-labelledby=all-h>
${table(subject, tags)}
</div>
</section>
${WORDS}
</main>
<script>${SCRIPT}</script>
</html>
`
}

const key = (name: string, of: string): string =>
  `<span><svg class=key><rect class="${of}" x=1 y=2 width=10 height=8 /></svg>${name}</span>`

function legend(matters: boolean): string {
  const ring = '<span><svg class=key><rect class=ring x=1 y=1 width=10 height=10 /></svg>what matters</span>'
  const bars = [
    key('durable', 'd'),
    key('not durable, kept', 'k'),
    key('lost in part', 'p'),
    key('lost', 'l'),
  ]
  const lines = [line('flush'), line('mark')]
  return `<p class=legend>${[...bars, ...lines, ...(matters ? [ring] : [])].join('')}</p>`
}

const line = (name: string): string =>
  `<span><svg class=key><path class=${name} d="M6 0v12" /></svg>${name}</span>`

const WORDS = `<section class=words><h2>Words</h2><dl>
<div><dt>durable<dd>It was answered before a flush came, and that flush was answered; or it was answered and had FUA. A disk has to keep it.</div>
<div><dt>kept<dd>Nothing had made it durable. This disk has it all the same, or what was written later in its place.</div>
<div><dt>lost<dd>Nothing had made it durable, and this disk does not have it.</div>
<div><dt>in flight<dd>It was not answered when the power failed.</div>
<div><dt>FUA<dd>Forced unit access: the flag of a write that must be durable before it is answered.</div>
<div><dt>META<dd>A file system wrote structures of its own, such as its journal.</div>
<div><dt>moment<dd>How many events came before: starts and answers of requests, and marks. Two writes overlapped in time if neither was answered before the other was started.</div>
</dl></section>`

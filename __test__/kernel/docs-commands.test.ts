// seconds: 90
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { leaveNoServerBehind } from '../support/detached.js'
import { ImageServer } from '../support/image-server.js'
import {
  BLOCKS,
  type Block,
  type Command,
  commandsOf,
  DOCUMENTS,
  isShell,
  placeOf,
} from '../support/pages.js'
import { FLAGS, MAIN, result, shell } from '../support/program.js'

// The commands of the site's pages run as they are shown, in the order of each page, and say what the pages say. With
// UBLK_TS_PAGES=all also those that another test runs in another order.

leaveNoServerBehind(test)

/** Programs that a reader has: `ublk-ts` installed, `npx` which finds it, and `sudo`, which root does not need. */
const PROGRAMS = mkdtempSync('/tmp/programs-')
const node = [process.execPath, ...FLAGS].map(word => `'${word}'`).join(' ')
for (const [name, text] of Object.entries({
  'ublk-ts': `exec ${node} '${MAIN}' "$@"`,
  npx: 'exec "$@"',
  sudo: 'exec "$@"',
})) {
  writeFileSync(`${PROGRAMS}/${name}`, `#!/bin/sh\n${text}\n`, { mode: 0o755 })
}
test.after.always(() => rmSync(PROGRAMS, { recursive: true }))

/** Before what a command says, and before its status. */
const [BEGIN, END] = ['\x1e', '\x1f']
const FUNCTIONS = `
cd "$(mktemp -d /tmp/page-XXXXXX)"; PATH=$1:$PATH
run() { # COMMAND
  local status=0
  printf '${BEGIN}'; eval "$1" 2>&1 </dev/null || status=$?; printf '${END}%d' $status
}
stay() { # COMMAND: one program, which goes on
  printf '${BEGIN}'; : >said; eval "exec $1" >said 2>&1 </dev/null & staying+=($!)
  for ((tries = 0; tries < 100; tries++)); do [ ! -s said ] || break; kill -0 $!; sleep 0.1; done
  cat said; printf '${END}0'
}
fresh() { # Removes all disks.
  for disk in /sys/block/ublkb*; do [ ! -e "$disk" ] || ublk-ts delete --force "\${disk##*ublkb}"; done
}
staying=()
end() {
  for server in "\${staying[@]}"; do kill -TERM "$server" 2>/dev/null || :; done
  wait "\${staying[@]}" || :
  fresh; cd /; rm -rf "$OLDPWD"
}
trap end EXIT
`

const quoted = (text: string): string => `'${text.replaceAll("'", "'\\''")}'`

const ALL = process.env['UBLK_TS_PAGES'] === 'all'

/** Programs that a test runs by itself have nothing given. */
const isRun = ({ runBy, given }: Block): boolean => runBy === undefined || (ALL && given !== '')

interface Shown extends Command {
  readonly block: Block
}

for (const document of DOCUMENTS) {
  const blocks = BLOCKS.filter(
    block => block.document === document && isShell(block) && block.notRun === undefined && isRun(block),
  )
  if (blocks.length === 0) continue
  test(`the commands of ${document} run as they are shown`, async t => {
    await using server = await ImageServer.start()
    const commands: Shown[] = []
    const script = blocks.map(block => {
      const own = commandsOf(block)
      commands.push(...own.map(command => ({ ...command, block })))
      const calls = own.map(
        ({ words }, at) => `${block.stays && at === own.length - 1 ? 'stay' : 'run'} ${quoted(words)}`,
      )
      return `${block.given}\n${calls.join('\n')}`
    })
    const text = (FUNCTIONS + script.join('\n')).replaceAll('https://example.org/image.raw', server.url)
    const { stdout, stderr } = await result(shell(text, PROGRAMS))
    const answers = stdout.split(BEGIN).slice(1)
    t.is(answers.length, commands.length, stderr)
    for (const [at, { words, said, block }] of commands.entries()) {
      const [answer = '', status] = answers[at]?.split(END) ?? []
      const what = `${placeOf(block)}: ${words}: ${answer}`
      // A page that shows how a command fails shows what it says then.
      t.is(Number.parseInt(status ?? '', 10) === 0, !said?.startsWith('ublk-ts: '), what)
      if (said !== undefined) t.regex(answer.trimEnd(), pattern(said), what)
    }
  })
}

/** What a page says, where … stands for anything. */
function pattern(said: string): RegExp {
  const escaped = said.split(/\s*…\s*/).map(part => part.replaceAll(/[.*+?^${}()|[\]\\/]/g, '\\$&'))
  return new RegExp(`^${escaped.join('[^]*')}$`)
}

test('the pages have commands', t => {
  t.true(BLOCKS.filter(isShell).length > 30)
})

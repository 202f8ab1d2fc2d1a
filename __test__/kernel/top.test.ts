import test from 'ava'
import { leaveNothingBehind, readAllTheTime } from '../support/devices.js'
import { run } from '../support/program.js'
import { Server, until } from '../support/server.js'
import { Terminal } from '../support/terminal.js'

leaveNothingBehind(test)

const ENTER = '\x1b[?1049h\x1b[?25l'
const LEAVE = '\x1b[?25h\x1b[?1049l'

test('where the output is no terminal, top prints tables', async t => {
  await Server.with('--mem 16M --id 3', async ({ path }) => {
    await using _ = readAllTheTime(path)
    const { status, stdout, stderr } = await run('top', '--interval', '0.5', '--count', '2')
    t.deepEqual([status, stderr], [0, ''])
    const tables = stdout.trim().split('\n\n')
    t.is(tables.length, 2)
    for (const table of tables) {
      t.regex(
        table,
        /^DEVICE +IOPS +READ\/S +WRITE\/S +MEAN +P99 +IN-FLIGHT\nublkb3 +[1-9]\d* +[\d.]+[KM] +0B +[\d.]+[nm]?u?s /,
      )
    }
  })
})

test('in a terminal, top shows what devices do, and keys sort it', async t => {
  await Server.with('--mem 16M --id 3', async busy => {
    await Server.with('--mem 16M --id 2', async () => {
      await using _ = readAllTheTime(busy.path)
      const terminal = await Terminal.run('top --interval 0.2', 110, 10)
      await terminal.shows(/ublkb3 +[1-9]\d* .*[▁▂▃▄▅▆▇█]/)
      t.true(terminal.output.startsWith(ENTER))
      const order = () =>
        terminal
          .screen()
          .map(line => /^ublkb\d/.exec(line)?.[0])
          .filter(name => name !== undefined)
      t.deepEqual(order(), ['ublkb3', 'ublkb2'], 'by IOPS')
      terminal.press('d')
      await until(() => order().join() === 'ublkb2,ublkb3', 'by device')
      terminal.press('d')
      await until(() => order().join() === 'ublkb3,ublkb2', 'by device, the other way round')
      t.is(terminal.screen().length, 10)
      t.regex(terminal.screen().at(-1) ?? '', /^sort by d device .* q quit$/)

      await terminal.resize(50, 6)
      await until(() => terminal.screen().length === 6, 'it fits')
      t.true(terminal.screen().every(line => line.length <= 50))

      terminal.press('q')
      t.is(await terminal.end(), 0)
      t.true(terminal.output.trimEnd().endsWith(LEAVE))
    })
  })
})

for (const [how, end] of [
  ['Ctrl-C', async (terminal: Terminal) => terminal.press('\x03')],
  ['SIGTERM', async (terminal: Terminal) => await terminal.signal('SIGTERM')],
  ['SIGHUP', async (terminal: Terminal) => await terminal.signal('SIGHUP')],
] as const) {
  test(`the terminal is as it was after ${how}`, async t => {
    const terminal = await Terminal.run('top --interval 60', 80, 24)
    await terminal.shows(/no devices/)
    await end(terminal)
    t.is(await terminal.end(), 0)
    t.true(terminal.output.trimEnd().endsWith(LEAVE))
  })
}

test('the terminal is as it was also after a number of rounds', async t => {
  const terminal = await Terminal.run('top --interval 0.2 --count 2', 80, 24)
  t.is(await terminal.end(), 0)
  t.is(terminal.output.split(ENTER).length, 2)
  t.true(terminal.output.trimEnd().endsWith(LEAVE))
})

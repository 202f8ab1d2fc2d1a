import test from 'ava'
import { deviceColumns, usualColumns } from '../../dist/cli/device-table.js'
import { type Column, formatFields, formatTable, selectColumns, toJson } from '../../dist/cli/table.js'

interface Row {
  name: string
  size: number
  on: boolean
  pid: number | null
}
const columns: Column<Row>[] = [
  { name: 'NAME', summary: '', value: row => row.name },
  { name: 'SIZE', summary: '', bytes: true, value: row => row.size },
  { name: 'ON', summary: '', value: row => row.on },
  { name: 'PID', summary: '', value: row => row.pid },
]
const rows: Row[] = [
  { name: 'a', size: 2 ** 24, on: true, pid: 12 },
  { name: 'longer', size: 512, on: false, pid: null },
]

test('a table looks like that of lsblk: no borders, sizes to the right, no blanks at the end', t => {
  t.is(
    formatTable(columns, rows),
    ['NAME    SIZE  ON  PID', 'a        16M  1   12', 'longer  512B  0'].join('\n'),
  )
})

test('headings and units can be left out', t => {
  t.is(
    formatTable(columns, rows, { noheadings: true, bytes: true }),
    'a       16777216  1  12\nlonger       512  0',
  )
})

test('no rows are no output at all', t => {
  t.is(formatTable(columns, []), '')
})

test('JSON has the names in small letters, bytes as numbers and booleans as such', t => {
  t.deepEqual(toJson('rows', columns, rows), {
    rows: [
      { name: 'a', size: 16777216, on: true, pid: 12 },
      { name: 'longer', size: 512, on: false, pid: null },
    ],
  })
})

test('one row can be shown as fields', t => {
  t.is(formatFields(columns.slice(0, 2), rows[0] as Row), 'NAME  a\nSIZE  16M')
})

test('columns are chosen by name, added with +, and all of them in JSON', t => {
  const names = (output?: string, json?: boolean) =>
    selectColumns(columns, ['NAME'], { ...(output && { output }), ...(json && { json }) }).map(
      column => column.name,
    )
  t.deepEqual(names(), ['NAME'])
  t.deepEqual(names('pid,Name'), ['PID', 'NAME'])
  t.deepEqual(names('+SIZE'), ['NAME', 'SIZE'])
  t.deepEqual(names(undefined, true), ['NAME', 'SIZE', 'ON', 'PID'])
  t.deepEqual(names('ON', true), ['ON'])
  t.throws(() => names('FOO'), { message: /no column 'FOO'/ })
})

test('the usual columns of devices exist', t => {
  const names = deviceColumns.map(column => column.name)
  t.deepEqual(
    usualColumns.filter(name => !names.includes(name)),
    [],
  )
})

// seconds: 40
import { existsSync, lstatSync, mkdirSync, readlinkSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import test from 'ava'
import { DiskPool, memory, nullDisk, UblkDevice } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { run, sh } from '../support/program.js'
import { Server } from '../support/server.js'

leaveNoServerBehind(test)
test.afterEach.always('no name is left', t => t.false(existsSync('/dev/ublk')))

const SILENT = { status: 0, signal: null, stdout: '', stderr: '' }
const link = (name: string): string => readlinkSync(`/dev/ublk/${name}`)

test('a disk has a name, which stands for it everywhere', async t => {
  await using disk = await UblkDevice.create({ backend: memory('1M'), name: 'db' })
  t.is(disk.name, 'db')
  t.is(link('db'), `../ublkb${disk.id}`)
  await sh('echo here | dd of=/dev/ublk/db conv=fsync status=none')
  t.is((await disk.info()).path, disk.path)
  for (const text of ['db', '/dev/ublk/db', disk.path]) {
    const handle = await UblkDevice.open(text)
    t.deepEqual([handle.id, handle.name], [disk.id, 'db'])
  }
  t.is((await run('show', 'db', '-o', 'id,name')).stdout, `ID    ${disk.id}\nNAME  db\n`)
  t.is((await run('list', '-n', '-o', 'name')).stdout, 'db\n')
  t.regex(
    (await run('resize', 'dbb', '1M')).stderr,
    /^ublk-ts: no disk has the name 'dbb'; did you mean db\?\n$/,
  )
  await t.throwsAsync(UblkDevice.open('dbb'), { message: "no disk has the name 'dbb'" })
})

test('a name is of one disk, and nothing is left of the attempt to use it twice', async t => {
  await using disk = await UblkDevice.create({ backend: memory('1M'), name: 'db' })
  const error = await t.throwsAsync(UblkDevice.create({ backend: memory('1M'), name: 'db' }), {
    message: `the name 'db' is taken by device ${disk.id}`,
  })
  t.like(error, { kind: 'exists' })
  const words = ['create', '--null', '1M', '--name', 'db', '--detach']
  t.like(await run(...words), { status: 1, stdout: '' })
  const attempts = Array.from({ length: 8 }, () =>
    UblkDevice.create({ backend: nullDisk('1M'), name: 'one' }),
  )
  const outcomes = await Promise.allSettled(attempts)
  const made = outcomes.flatMap(each => (each.status === 'fulfilled' ? [each.value] : []))
  t.is(made.length, 1)
  t.is(link('one'), `../ublkb${made[0]?.id}`)
  t.is((await UblkDevice.list()).length, 2)
  await made[0]?.delete()
  for (const name of ['0', 'a b', '../x', '']) {
    t.regex((await run('create', '--null', '1M', '--name', name)).stderr, /^ublk-ts: [^\n]*name[^\n]*\n$/)
  }
})

test('what is no link to a ublk disk stays, and what is left of an earlier disk does not hold a name', async t => {
  mkdirSync('/dev/ublk')
  t.teardown(() => rmSync('/dev/ublk', { recursive: true, force: true }))
  writeFileSync('/dev/ublk/file', '')
  await t.throwsAsync(UblkDevice.create({ backend: memory('1M'), name: 'file' }), {
    message: '/dev/ublk/file exists, and is no link to a ublk disk',
  })
  t.true(lstatSync('/dev/ublk/file').isFile())
  rmSync('/dev/ublk/file')
  symlinkSync('../ublkb77', '/dev/ublk/db')
  symlinkSync('../ublkb5', '/dev/ublk/old')
  t.regex((await run('show', 'db')).stderr, /there is no ublk device 77/)
  await using disk = await UblkDevice.create({ backend: memory('1M'), name: 'db', id: 5 })
  t.is(link('db'), `../ublkb${disk.id}`)
  t.false(existsSync('/dev/ublk/old'), 'it was of an earlier device 5')
})

test('a name outlives its server, and goes with the device, whoever deletes it', async t => {
  const disk = await Detached.create('--mem 1M --recovery reissue --name db')
  await disk.signal('SIGKILL')
  t.is(link('db'), `../ublkb${disk.id}`)
  t.is((await run('recover', 'db')).status, 0)
  t.is(disk.record.options.name, 'db')
  t.is((await run('upgrade', '/dev/ublk/db')).status, 0)
  t.is((await run('list', '-n', '-o', 'name')).stdout, 'db\n')
  rmSync('/dev/ublk/db')
  t.is((await run('show', 'db', '-n', '-o', 'id')).stdout, `ID  ${disk.id}\n`, 'the record has it, too')
  await disk.signal('SIGKILL')
  t.is((await run('recover', 'db')).status, 0)
  t.is(link('db'), `../ublkb${disk.id}`)
  t.deepEqual(await run('delete', 'db'), SILENT)
  t.false(existsSync('/dev/ublk'))
  const lost = await Detached.create('--mem 1M --name db')
  await lost.signal('SIGKILL')
  t.regex(
    (await run('create', '--null', '1M', '--name', 'db')).stderr,
    /taken by device \d+; .*ublk-ts delete \d+/,
  )
  t.deepEqual(await run('delete', 'db'), SILENT)
  t.false(existsSync('/dev/ublk'))
})

test('a program that exits, or is killed, leaves no name that holds', async t => {
  const text = `
    import { nullDisk, UblkDevice } from 'ublk-ts'
    const disk = await UblkDevice.create({ backend: { size: '1M', read() {} }, name: 'mine' })
    console.log(disk.path)
    process.on('SIGUSR2', () => process.exit(0))
  `
  const program = await Server.program(text)
  t.is((await run('list', '-n', '-o', 'name')).stdout, 'mine\n', 'without a record')
  program.signal('SIGUSR2')
  await program.ended
  t.false(existsSync('/dev/ublk'))
  const killed = await Server.program(text)
  killed.signal('SIGKILL')
  await killed.ended
  t.deepEqual(await run('delete', 'mine'), SILENT)
})

test('a disk of a pool gets its name when it is taken', async t => {
  await using pool = new DiskPool({ spare: 1 })
  await using disk = await pool.take({ backend: memory('1M'), name: 'taken' })
  t.deepEqual([link('taken'), disk.name], [`../ublkb${disk.id}`, 'taken'])
})

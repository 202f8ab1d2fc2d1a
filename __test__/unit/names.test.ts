import test from 'ava'
import { checkDiskName, parseDevice } from '../../dist/disk-name.js'
import { idOf } from '../../dist/remote/names.js'

test('a device is meant by number, path or name', t => {
  for (const text of ['7', 'ublkb7', 'ublkc7', '/dev/ublkb7', '/dev/ublkc7']) t.is(parseDevice(text), 7)
  for (const text of ['db', '/dev/ublk/db']) t.deepEqual(parseDevice(text), { name: 'db' })
  for (const text of ['sda', 'ublkb', '1.5', 'vm-1.root_2', 'x'.repeat(64)]) {
    t.deepEqual(parseDevice(text), { name: text })
  }
  const wrong = [
    '',
    '-1',
    '/dev/sda',
    '/tmp/ublkb7',
    '7 ',
    '99999999',
    '/dev/ublk/',
    '/dev/ublk/7',
    '/dev/ublk/../x',
  ]
  for (const text of [...wrong, 'a/b', 'a b', '.', '..', 'ä', 'a\n', 'x'.repeat(65)]) {
    t.throws(() => parseDevice(text), { message: /is not a ublk device/ }, text)
  }
})

test('the name of a disk cannot be taken for a number or a path, and needs no quoting', t => {
  for (const name of ['db', 'A', '1.5', '0x', 'vm-1.root_2']) t.notThrows(() => checkDiskName(name))
  for (const name of ['0', 'ublkb0', 'ublkc17', '', '-a', '.a', 'a b', 'a/b', 'ä', 'x'.repeat(65), 5, null]) {
    t.throws(() => checkDiskName(name), { message: /^the name of a disk cannot be / }, String(name))
  }
})

test('an unknown name is told in one line', t => {
  t.throws(() => idOf('nobody'), { message: "no disk has the name 'nobody'" })
})

import test from 'ava'
import { leaveNothingBehind } from '../support/devices.js'
import { MAIN, sh } from '../support/program.js'

leaveNothingBehind(test)

/** A `/dev` as a container has it: nobody makes nodes in it, or removes them. */
const DEV = `
read -r major minor < <(tr : ' ' </sys/class/misc/ublk-control/dev)
mount -t tmpfs -o mode=755 tmpfs /dev
mknod -m 666 /dev/null c 1 3; mknod -m 666 /dev/zero c 1 5
mknod -m 666 /dev/random c 1 8; mknod -m 666 /dev/urandom c 1 9
mknod -m 600 /dev/ublk-control c "$major" "$minor"
ln -s /proc/self/fd /dev/fd

# serve WORD...: starts a server; its disk is then $disk.
serve() {
  : >/tmp/container-path
  "$node" "$main" create "$@" >/tmp/container-path & server=$!
  until [ -s /tmp/container-path ]; do kill -0 $server; sleep 0.05; done
  disk=$(cat /tmp/container-path)
}
ublk-ts() { "$node" "$main" "$@"; }
nodes() { (cd /dev; shopt -s nullglob; stat -c '%n %a %F' ublk[bc]* </dev/null); }
`

/** Runs a script where `/dev` is so, and gives what it prints. */
async function contained(script: string): Promise<string> {
  const inner = `set -euo pipefail; node=$1 main=$2; ${DEV}\n${script}`
  return await sh('exec unshare -m bash -c "$1" bash "$2" "$3"', inner, process.execPath, MAIN)
}

test('where nobody makes nodes a disk has them, with modes like those of other disks, as long as it is there', async t => {
  const printed = await contained(`
    serve --mem 16M --id 700
    echo "$disk"; nodes
    mkfs.ext4 -q "$disk"; dumpe2fs -h "$disk" 2>/dev/null | grep -c 'Filesystem state: *clean'
    ublk-ts list -n -o path,state
    ublk-ts delete 700
    wait $server || true
    ls /dev | grep ublk
  `)
  t.deepEqual(printed.trim().split('\n'), [
    '/dev/ublkb700',
    'ublkb700 660 block special file',
    'ublkc700 600 character special file',
    '1',
    '/dev/ublkb700  live',
    'ublk-control',
  ])
})

test('its server removes them too, and nodes of older devices do not confuse it', async t => {
  const printed = await contained(`
    mknod /dev/ublkb701 b 7 200; mknod /dev/ublkc701 c 1 3
    serve --mem 16M --id 701
    dd if=/dev/urandom of="$disk" bs=64k count=4 status=none
    [ "$(stat -c %Hr:%Lr "$disk")" = "$(cat /sys/class/block/ublkb701/dev)" ]
    kill -INT $server; wait $server
    ls /dev | grep ublk
  `)
  t.is(printed, 'ublk-control\n')
})

test('what a killed server left is removed with its device', async t => {
  const printed = await contained(`
    serve --mem 16M --id 702
    kill -KILL $server; wait $server || true
    until [ ! -e /sys/class/block/ublkb702 ]; do sleep 0.05; done
    ublk-ts delete 702
    ls /dev | grep ublk
  `)
  t.is(printed, 'ublk-control\n')
})

test('who may not make nodes is told so in one line, and nothing is left', async t => {
  const printed = await contained(`
    setpriv --bounding-set -mknod "$node" "$main" create --mem 16M --id 703 2>&1 || echo "status $?"
    ublk-ts list -n; ls /dev | grep ublk
    setpriv --bounding-set -mknod "$node" "$main" doctor | grep '  nodes  ' || true
    ublk-ts doctor | grep '  nodes  '
  `)
  const [failure, status, left, without, with_] = printed.trim().split('\n')
  t.regex(failure ?? '', /^ublk-ts: nobody made \/dev\/ublkc703, and we cannot either: .*EPERM.*CAP_MKNOD/)
  t.deepEqual([status, left], ['status 1', 'ublk-control'])
  t.regex(without ?? '', /^warn .*\/dev is tmpfs/)
  t.regex(with_ ?? '', /^ok .*\/dev is tmpfs/)
})

test('another container takes a disk over under nodes of its own', async t => {
  const printed = await contained(`
    cat >/tmp/container-serve.mjs <<'END'
    const [, , path, id] = process.argv
    const { memory, UblkDevice } = await import(path)
    const backend = memory('16M', { file: '/tmp/container-disk' })
    const disk = id
      ? await UblkDevice.recover(Number(id), { backend })
      : await UblkDevice.create({ backend, id: 704, recovery: 'reissue' })
    console.log(disk.path)
    if (id) await disk.delete({ force: true })
END
    index=$(dirname "$main")/../index.js
    truncate -s 16M /tmp/container-disk; : >/tmp/container-path
    "$node" /tmp/container-serve.mjs "$index" >/tmp/container-path & server=$!
    until [ -s /tmp/container-path ]; do kill -0 $server; sleep 0.05; done
    kill -KILL $server; wait $server || true
    rm /dev/ublk[bc]704
    "$node" /tmp/container-serve.mjs "$index" 704
    ls /dev | grep ublk
    rm /tmp/container-*
  `)
  t.is(printed, '/dev/ublkb704\nublk-control\n')
})

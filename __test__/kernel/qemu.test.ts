// seconds: 120
/** Disks that a qemu-nbd of their own serves: images of other formats, and disks of other machines. The helpers are killed. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { qemu, UblkDevice, type UblkError } from 'ublk-ts'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { verify } from '../support/nbd-server.js'
import { run, sh } from '../support/program.js'
import { until } from '../support/server.js'
import { missing, Storage } from '../support/storage.js'

leaveNoServerBehind(test)

const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 2)
const DIR = mkdtempSync('/dev/shm/qemu-')
const IMAGE = `${DIR}/image`
const KEY = `${DIR}/key`

/** qemu-img measures how fast the processor is, and finds that the lab's has no good clock. */
const LUKS = `truncate -s 64M "$1"; cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 "$1" "$2"`

test.before(() => writeFileSync(KEY, 'planted-secret'))
test.after.always(() => rmSync(DIR, { recursive: true }))

/** The processes that serve disks. */
function helpers(): number[] {
  const name = (pid: string): string => {
    try {
      return readFileSync(`/proc/${pid}/comm`, 'utf8').trim()
    } catch {
      return ''
    }
  }
  return readdirSync('/proc')
    .filter(pid => /^\d+$/.test(pid) && name(pid) === 'qemu-nbd')
    .map(Number)
}

async function killHelper(): Promise<void> {
  const before = helpers()
  for (const pid of before) process.kill(pid, 'SIGKILL')
  await until(() => helpers().length > 0 && !helpers().some(pid => before.includes(pid)), 'another one runs')
}

/** What every such disk does: it verifies and keeps files although its helper is killed, and ends with its helper. */
async function isSound(t: ExecutionContext, words: string): Promise<void> {
  const disk = await Detached.create(`${words} --journal 8M`)
  let failed: string | undefined
  const load = verify(disk.path, '--loops=3').then(said => {
    failed = said
  })
  for (let kill = 0; kill < KILLS && failed === undefined; kill++) {
    await sleep(500)
    await killHelper()
  }
  await load
  t.is(failed, '')
  await sh(
    'mkfs.ext4 -qF "$1"; mkdir -p "$2/mnt"; mount "$1" "$2/mnt"; cp -r node_modules/ava "$2/mnt"; sync -f "$2/mnt"',
    disk.path,
    DIR,
  )
  await killHelper()
  await sh(
    'umount "$2/mnt"; mount "$1" "$2/mnt"; diff -r node_modules/ava "$2/mnt/ava"; umount "$2/mnt"; e2fsck -fn "$1"',
    disk.path,
    DIR,
  )
  const said = disk.log.map(line => line.message ?? line.msg ?? '').join('\n')
  t.regex(said, /qemu-nbd has ended: signal: 9/)
  t.regex(said, /connected to .* again/)
  t.is((await run('delete', disk.path)).status, 0)
  t.deepEqual(helpers(), [])
}

for (const format of ['vmdk', 'vhdx']) {
  test.serial(`a ${format} image keeps what was written although qemu-nbd is killed`, async t => {
    await sh('rm -f "$1"; qemu-img create -q -f "$2" "$1" 64M', IMAGE, format)
    await isSound(t, `--image ${IMAGE} --format ${format}`)
    await sh('qemu-img check -q -f "$2" "$1"', IMAGE, format)
  })
}

test.serial(
  'a LUKS image keeps what was written although qemu-nbd is killed, and its key is shown nowhere',
  async t => {
    await sh(`rm -f "$1"; ${LUKS}`, IMAGE, KEY)
    await isSound(t, `--image ${IMAGE} --format luks --key-file ${KEY}`)
    const disk = await Detached.create(`--image ${IMAGE} --format luks --key-file ${KEY}`)
    await sh('! grep -aq planted-secre[t] /proc/[0-9]*/cmdline /run/ublk-ts/*.json "$1"', IMAGE)
    t.is((await run('delete', disk.path)).status, 0)
  },
)

test.serial('a disk is taken over and upgraded under load, and one helper serves it', async t => {
  await sh('rm -f "$1"; qemu-img create -q -f vmdk "$1" 64M', IMAGE)
  const disk = await Detached.create(`--image ${IMAGE} --format vmdk --recovery reissue`)
  const load = verify(disk.path, '--loops=3')
  await disk.changeServers(t)
  t.is(helpers().length, 1)
  t.is(await load, '')
  t.is((await run('delete', disk.path)).status, 0)
  t.deepEqual(helpers(), [])
})

test.serial('without a journal the next flush fails once after the helper was killed', async t => {
  await sh('rm -f "$1"; truncate -s 16M "$1"', IMAGE)
  const disk = await Detached.create(`--qemu driver=raw,file.filename=${IMAGE}`)
  const flush = 'python3 -c "import os,sys; os.fsync(os.open(sys.argv[1], os.O_RDWR))" "$1"'
  await sh('dd if=/dev/urandom of="$1" bs=64K count=1 oflag=direct status=none', disk.path)
  await killHelper()
  await t.throwsAsync(sh(flush, disk.path), { message: /Input\/output error/ })
  await sh(flush, disk.path)
  t.is((await run('delete', disk.path)).status, 0)
})

test.serial('a helper does not outlive its server', async t => {
  await sh('rm -f "$1"; qemu-img create -q -f vmdk "$1" 16M', IMAGE)
  const words = `--image ${IMAGE} --format vmdk`
  const disk = await Detached.create(words)
  await disk.signal('SIGKILL')
  await until(() => helpers().length === 0, 'it ends')
  await run('delete', disk.path)
  // Its socket is removed with the next one.
  const next = await Detached.create(words)
  t.is((await run('delete', next.path)).status, 0)
})

for (const format of ['raw', 'luks', 'vmdk']) {
  test.serial(`an image has one disk at a time, and readers share it: ${format}`, async t => {
    const key = format === 'luks' ? ` --key-file ${KEY}` : ''
    if (format === 'luks') await sh(`rm -f "$1"; ${LUKS}`, IMAGE, KEY)
    else await sh('rm -f "$1"; qemu-img create -q -f "$2" "$1" 64M', IMAGE, format)
    await sh('ln -sf image "$1/link"', DIR)
    const others = [
      `--image ${IMAGE} --format ${format}${key}`,
      `--image ${DIR}/link --format ${format}${key}`,
      `--qemu driver=raw,file.driver=file,file.filename=${IMAGE}`,
      `--file ${IMAGE}`,
    ]
    const refused = async (words: string): Promise<void> => {
      const { status, stderr } = await run('create', '--detach', ...words.split(' '))
      t.is(status, 1, words)
      t.regex(stderr, /^ublk-ts: .*(image|link) is in use: .*process \d+ \(qemu-nbd\).*--no-exclusive/, words)
    }
    const disk = await Detached.create(`${others[0]} --recovery reissue`)
    for (const words of others) {
      await refused(words)
      await refused(`${words} --read-only`)
    }
    const insisting = await Detached.create(`${others[0]} --read-only --no-exclusive`)
    t.is((await run('delete', insisting.path)).status, 0)
    // It stays so when the helper was killed, and when another server has taken over.
    await killHelper()
    await refused(others[0] as string)
    await disk.signal('SIGKILL')
    t.is((await run('recover', disk.path)).status, 0)
    await refused(others[1] as string)
    t.is((await run('delete', disk.path)).status, 0)
    const readers = [
      await Detached.create(`${others[0]} --read-only`),
      await Detached.create(`${others[1]} --read-only`),
      await Detached.create(`--file ${IMAGE} --read-only`),
    ]
    await refused(others[0] as string)
    for (const reader of readers) t.is((await run('delete', reader.path)).status, 0)
    t.deepEqual(helpers(), [])
  })
}

test.serial('a disk that is held is made of its image again unless another one is', async t => {
  await sh('rm -f "$1"; truncate -s 16M "$1"', IMAGE)
  const make = () => qemu({ driver: 'raw', file: { filename: IMAGE } })
  await using disk = await UblkDevice.create({ backend: make(), recovery: 'reissue' })
  await disk.quiesce()
  const other = await UblkDevice.create({ backend: make() })
  const refused = await t.throwsAsync<UblkError>(disk.resume())
  t.is(refused?.kind, 'busy', refused?.message)
  t.regex(refused?.message ?? '', /is in use: /)
  await other.delete()
  await disk.resume()
  await sh('dd if=/dev/zero of="$1" bs=4k count=1 oflag=direct status=none', disk.path)
})

test.serial('what cannot be is refused in one line', async t => {
  await sh('rm -f "$1"; truncate -s 1M "$1"', IMAGE)
  const refused = async (words: string, message: RegExp): Promise<void> => {
    const { status, stderr } = await run('create', '--detach', ...words.split(' '))
    t.not(status, 0, words)
    t.regex(stderr, message, words)
    t.is(
      stderr
        .trimEnd()
        .split('\n')
        .filter(line => line.startsWith('ublk-ts:')).length,
      1,
      stderr,
    )
  }
  await refused(`--image ${IMAGE}`, /--image needs --format/)
  await refused(`--image ${IMAGE} --format vmdk`, /qemu-nbd cannot serve the disk: /)
  await refused(`--image ${DIR}/missing --format vhdx`, /No such file/)
  await refused(`--image ${IMAGE} --format nonsense`, /Unknown driver/)
  await refused(`--qemu file.filename=${IMAGE}`, /begin with driver=/)
  await refused(`--qemu driver=raw,file.filename=${IMAGE},cache.no-flush=on`, /would lose what was flushed/)
  await refused(
    `--qemu driver=raw,file.filename=${IMAGE},file.locking=on`,
    /ublk-ts claims the images itself/,
  )
  await refused('--rbd image', /pool\/image/)
  await refused(`--image ${IMAGE} --format raw --ceph-user me`, /--ceph-user is only for --rbd/)
  t.deepEqual(helpers(), [])
})

const scsi = missing('tgtd')
const iscsi = scsi.length > 0 ? test.skip : test.serial
iscsi('an iSCSI disk keeps what was written although qemu-nbd is killed', async t => {
  await sh('rm -f "$1"; truncate -s 64M "$1"', IMAGE)
  await using _target = await Storage.target(IMAGE, 3261, 'me', 'planted-secret')
  const where = 'transport=tcp,portal=127.0.0.1:3261,target=iqn.2026-11.test:disk,lun=1'
  await isSound(t, `--qemu driver=iscsi,${where},user=me,password-secret=key --key-file ${KEY}`)
})

// They are large: apt-get install --no-install-recommends ceph-mon ceph-osd ceph-common qemu-block-extra
const ceph = missing('ceph-mon', 'ceph-osd', 'rbd').length > 0 ? test.skip : test.serial
ceph('an RBD image of a Ceph cluster keeps what was written although qemu-nbd is killed', async t => {
  await sh('mkdir "$1/ceph"', DIR)
  await using _cluster = await Storage.ceph(`${DIR}/ceph`)
  await isSound(t, `--rbd rbd/disk --ceph-conf ${DIR}/ceph/ceph.conf`)
})

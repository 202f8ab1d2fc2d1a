// seconds: 120
/** Images of other formats, and disks of other machines, on a qemu-nbd that somebody else starts, and that is killed. */
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import test, { type ExecutionContext } from 'ava'
import { Detached, leaveNoServerBehind } from '../support/detached.js'
import { NbdServer, verify } from '../support/nbd-server.js'
import { run, sh } from '../support/program.js'
import { missing, Storage } from '../support/storage.js'

leaveNoServerBehind(test)

const KILLS = Number(process.env['UBLK_TS_KILLS'] ?? 2)
const DIR = mkdtempSync('/dev/shm/formats-')
const IMAGE = `${DIR}/image`
const KEY = `${DIR}/key`
const SOCKET = `${DIR}/socket`
const SECRET = `--object secret,id=key,file=${KEY}`

/** qemu-img measures how fast the processor is, and finds that the lab's has no good clock. */
const LUKS = `truncate -s 64M "$1"; cryptsetup luksFormat -q --type luks1 --pbkdf-force-iterations 1000 "$1" "$2"`

test.before(() => writeFileSync(KEY, 'planted-secret'))
test.beforeEach(() => rmSync(IMAGE, { force: true }))
test.after.always(() => rmSync(DIR, { recursive: true }))

/** The disk verifies, and keeps files that were synced, although its server is killed. */
async function isSound(t: ExecutionContext, words: string): Promise<void> {
  const qemu = `qemu-nbd --persistent --shared=0 --discard=unmap --socket=${SOCKET} ${words}`
  await using server = await NbdServer.start(qemu, SOCKET)
  const disk = await Detached.create(`--nbd nbd+unix:///?socket=${SOCKET} --journal 8M`)
  const killed = async (): Promise<void> => {
    await server.kill()
    await sleep(100)
    await server.start()
  }
  let failed: string | undefined
  const load = verify(disk.path, '--loops=3').then(said => {
    failed = said
  })
  for (let kill = 0; kill < KILLS && failed === undefined; kill++) {
    await sleep(500)
    await killed()
  }
  await load
  t.is(failed, '')
  await sh(
    'mkfs.ext4 -qF "$1"; mkdir -p "$2/mnt"; mount "$1" "$2/mnt"; cp -r node_modules/ava "$2/mnt"; sync -f "$2/mnt"',
    disk.path,
    DIR,
  )
  await killed()
  await sh(
    'umount "$2/mnt"; mount "$1" "$2/mnt"; diff -r node_modules/ava "$2/mnt/ava"; umount "$2/mnt"; e2fsck -fn "$1"',
    disk.path,
    DIR,
  )
  t.is((await run('delete', disk.path)).status, 0)
}

for (const format of ['vmdk', 'vhdx']) {
  test.serial(`a ${format} image keeps what was written although qemu-nbd is killed`, async t => {
    await sh('qemu-img create -q -f "$2" "$1" 64M', IMAGE, format)
    await isSound(t, `--format=${format} ${IMAGE}`)
    await sh('qemu-img check -q -f "$2" "$1"', IMAGE, format)
  })
}

test.serial('a LUKS image keeps what was written although qemu-nbd is killed', async t => {
  await sh(LUKS, IMAGE, KEY)
  await isSound(t, `${SECRET} --image-opts driver=luks,key-secret=key,file.filename=${IMAGE}`)
})

/** A test of a server that not every machine has: without it, the title of what is skipped says what to install. */
function served(
  title: string,
  needs: string[],
  packages: string,
  body: (t: ExecutionContext) => Promise<void>,
): void {
  if (missing(...needs).length === 0) test.serial(title, body)
  else test.skip(`${title}: needs apt-get install --no-install-recommends ${packages}`, body)
}

served(
  'an iSCSI disk keeps what was written although qemu-nbd is killed',
  ['tgtd', 'block-iscsi.so'],
  'tgt qemu-block-extra',
  async t => {
    await sh('truncate -s 64M "$1"', IMAGE)
    await using _target = await Storage.target(IMAGE, 3261, 'me', 'planted-secret')
    const where = 'transport=tcp,portal=127.0.0.1:3261,target=iqn.2026-11.test:disk,lun=1'
    await isSound(t, `${SECRET} --image-opts driver=iscsi,${where},user=me,password-secret=key`)
  },
)

served(
  'an RBD image of a Ceph cluster keeps what was written although qemu-nbd is killed',
  ['ceph-mon', 'ceph-osd', 'rbd', 'block-rbd.so'],
  'ceph-mon ceph-osd ceph-common qemu-block-extra',
  async t => {
    mkdirSync(`${DIR}/ceph`)
    await using _cluster = await Storage.ceph(`${DIR}/ceph`)
    await isSound(t, `--image-opts driver=rbd,pool=rbd,image=disk,conf=${DIR}/ceph/ceph.conf`)
  },
)

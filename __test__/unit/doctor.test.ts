import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test, { type ExecutionContext } from 'ava'
import type { Status } from '../../dist/cli/checks/check.js'
import { Machine } from '../../dist/cli/checks/machine.js'
import { UblkError } from '../../dist/errors.js'
import { refuseCrashes } from '../../dist/kernels.js'

const KERNEL_CRASHES = fileURLToPath(new URL('../../scripts/kernel-crashes', import.meta.url))
const RELEASE = '6.12.43-amd64'

/** A machine that consists of these files. */
async function machine(t: ExecutionContext, files: Record<string, string>, release = RELEASE, uid = 0) {
  const root = await mkdtemp(join(tmpdir(), 'ublk-ts-'))
  t.teardown(() => rm(root, { recursive: true }))
  for (const [path, text] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true })
    await writeFile(join(root, path), text)
  }
  return new Machine(root, release, uid)
}

const kernels: [string, Status, RegExp][] = [
  ['5.10.0-38-amd64', 'FAIL', /came with 6.0/],
  ['6.1.0-40-amd64', 'warn', /before 6.5/],
  ['6.12.43+deb13-amd64', 'ok', /^Linux 6.12.43\+deb13-amd64$/],
  ['6.17.0-1015-azure', 'FAIL', /this one crashes when a device is added$/],
  ['6.17.0-1017-aws', 'FAIL', /crashes/],
  ['6.17.0-14-generic', 'ok', /6.17/],
  ['6.17.13+deb13-amd64', 'ok', /6.17.13/],
  ['6.18.3', 'ok', /6.18.3/],
  ['6.18.4-arch1-1', 'FAIL', /crashes/],
  ['6.18.5', 'FAIL', /crashes/],
  ['6.18.6', 'ok', /6.18.6/],
  ['6.18.40-cloud-amd64', 'warn', /lose a command/],
  ['6.18.44', 'ok', /6.18.44/],
  ['6.18.50', 'ok', /6.18.50/],
  ['7.0.0-1008-aws', 'warn', /lose a command/],
  ['7.0', 'warn', /lose a command/],
  ['7.0.13', 'warn', /lose a command/],
  ['7.0.14', 'warn', /lose a command/],
  ['7.0.15', 'ok', /7.0.15/],
  ['7.3.4', 'ok', /7.3.4/],
  ['7.3', 'ok', /7.3/],
]
for (const [release, status, detail] of kernels) {
  test(`kernel ${release} is judged ${status}`, async t => {
    const check = await (await machine(t, {}, release)).kernel()
    t.is(check.status, status)
    t.regex(check.detail, detail)
    t.is(check.remedy === null, status === 'ok')
    // Only the oldest are refused for another reason.
    const crashes = status === 'FAIL' && !release.startsWith('5.')
    t.is(spawnSync(KERNEL_CRASHES, [release]).status, crashes ? 0 : 1)
    if (!crashes) {
      t.notThrows(() => refuseCrashes(release))
      return
    }
    const { kind, message, hint } = t.throws(() => refuseCrashes(release), {
      instanceOf: UblkError,
    }) as UblkError
    t.is(kind, 'unsupported')
    t.is(message, `Linux ${release} crashes when a device is added, so none is`)
    t.regex(hint ?? '', /UBLK_TS_ANY_KERNEL/)
  })
}

test('no device is added where that crashes the kernel, unless it is said to be mended', t => {
  t.throws(() => refuseCrashes('6.18.5'), { instanceOf: UblkError })
  process.env['UBLK_TS_ANY_KERNEL'] = '1'
  t.teardown(() => delete process.env['UBLK_TS_ANY_KERNEL'])
  t.notThrows(() => refuseCrashes('6.18.5'))
  t.is(spawnSync(KERNEL_CRASHES, ['6.18.5']).status, 1)
})

const modules = `lib/modules/${RELEASE}`
const dep = `${modules}/modules.dep`
const drivers: [string, Record<string, string>, Status, RegExp, RegExp?][] = [
  ['loaded', { 'dev/ublk-control': '' }, 'ok', /loaded/],
  [
    'a module not loaded',
    { [dep]: 'kernel/drivers/block/ublk_drv.ko.xz:\n' },
    'FAIL',
    /not loaded/,
    /^modprobe ublk_drv$/,
  ],
  ['not built', { [dep]: 'kernel/fs/ext4/ext4.ko:\n' }, 'FAIL', /built without/, /CONFIG_BLK_DEV_UBLK/],
  ['unknown for want of modules', {}, 'FAIL', /there is no \/lib\/modules/, /on the host/],
  [
    'loaded but without its node',
    { 'sys/module/ublk_drv/refcnt': '0', 'sys/class/misc/ublk-control/dev': '10:122\n' },
    'FAIL',
    /is loaded, but \/dev\/ublk-control is missing/,
    /^mknod -m 600 \/dev\/ublk-control c 10 122$/,
  ],
  [
    'built in but without its node',
    { [`${modules}/modules.builtin`]: 'kernel/drivers/block/ublk_drv.ko\n' },
    'FAIL',
    /is built in, but/,
    /devtmpfs/,
  ],
]
for (const [name, files, status, detail, remedy] of drivers) {
  test(`the driver that is ${name} is judged ${status}, with the remedy`, async t => {
    const check = await (await machine(t, files)).driver()
    t.is(check.status, status)
    t.regex(check.detail, detail)
    if (remedy) t.regex(check.remedy ?? '', remedy)
    else t.is(check.remedy, null)
  })
}

test('io_uring turned off is a failure, and restricted is one for users other than root', async t => {
  const check = async (value: string | undefined, uid: number) => {
    const files: Record<string, string> = {}
    if (value !== undefined) files['proc/sys/kernel/io_uring_disabled'] = `${value}\n`
    return (await (await machine(t, files, RELEASE, uid)).ioUring()).status
  }
  t.is(await check(undefined, 1000), 'ok')
  t.is(await check('0', 1000), 'ok')
  t.is(await check('1', 0), 'ok')
  t.is(await check('1', 1000), 'FAIL')
  t.is(await check('2', 0), 'FAIL')
})

test('a /dev that the kernel does not keep is worth a warning, unless nodes can be made in it', async t => {
  const mounts = (type: string) => ({
    'proc/self/mounts': `/dev/sda1 / ext4 rw 0 0\nnone /dev ${type} rw 0 0\n`,
  })
  t.is((await (await machine(t, mounts('devtmpfs'))).nodes()).status, 'ok')
  const root = { 'proc/self/status': 'CapEff:\t000001ffffffffff\n' }
  const map = (text: string) => ({ 'proc/self/uid_map': text })
  const nodes = async (files: Record<string, string>) =>
    (await (await machine(t, { ...mounts('tmpfs'), ...root, ...files })).nodes()).status
  t.is(await nodes(map('         0          0 4294967295\n')), 'ok')
  t.is(await nodes(map('         0       1000          1\n')), 'warn')
  t.is(await nodes({}), 'warn')
  t.like(await (await machine(t, mounts('tmpfs'))).nodes(), {
    status: 'warn',
    remedy: 'mount a devtmpfs on /dev',
  })
  const inContainer = await (await machine(t, { ...mounts('tmpfs'), '.dockerenv': '' })).nodes()
  t.regex(inContainer.detail, /^this is a container/)
  t.regex(inContainer.remedy ?? '', /--privileged/)
})

test('a low limit on locked memory matters to users other than root', async t => {
  const limits = (value: string) => ({
    'proc/self/limits': `Max locked memory         ${value}     ${value}   bytes\n`,
  })
  t.is((await (await machine(t, limits('65536'), RELEASE, 1000)).lockedMemory()).status, 'warn')
  t.is((await (await machine(t, limits('65536'), RELEASE, 0)).lockedMemory()).status, 'ok')
  t.is((await (await machine(t, limits('unlimited'), RELEASE, 1000)).lockedMemory()).status, 'ok')
})

test('the limit on devices is read where there is one', async t => {
  t.is(await (await machine(t, {})).maxDevices(), undefined)
  const file = 'sys/module/ublk_drv/parameters/ublks_max'
  t.is(await (await machine(t, { [file]: '64\n' })).maxDevices(), 64)
})

test('permission is not judged where there is no driver', async t => {
  t.is(await (await machine(t, {})).permission(), undefined)
  t.like(await (await machine(t, { 'dev/ublk-control': '' })).permission(), { status: 'ok' })
})

test('a user other than root may make disks where udev has the rule for them', async t => {
  const control = { 'dev/ublk-control': '' }
  const without = await (await machine(t, control, RELEASE, 1000)).permission()
  t.like(without, { status: 'warn', remedy: 'use sudo, or see docs/operations.md' })
  const files = { ...control, 'etc/udev/rules.d/59-ublk-ts.rules': '' }
  t.like(await (await machine(t, files, RELEASE, 1000)).permission(), { status: 'ok' })
})

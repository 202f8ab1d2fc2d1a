import test from 'ava'
import type { UblkError } from 'ublk-ts'
import { tmpDisk } from 'ublk-ts/testing'
import { result, shell } from '../support/program.js'

test('options that make no sense are refused before anything is made', async t => {
  for (const [options, message] of [
    [{}, 'tmpDisk() needs a size or a backend'],
    [{ size: '1M', mount: true }, 'a disk without a file system cannot be mounted'],
    [{ size: '1M', mkfs: ['-q'] }, 'a disk without a file system cannot be mounted'],
    [{ size: '1M', fs: 'ext4', mount: 5 }, 'mount must be true or false, not 5'],
    [{ size: '1M', fs: 'ext4', mout: true }, "tmpDisk() has no option 'mout'"],
    [{ size: '1M', faults: [{ op: 'flush', tear: 512 }] }, 'rule 0: a flush cannot be torn'],
    [{ size: '1M', onMissing: 'ignore' }, "onMissing must be 'fail' or 'skip', not 'ignore'"],
  ] as const) {
    const error = await t.throwsAsync<UblkError>(tmpDisk(options as never))
    t.deepEqual([error?.kind, error?.message], ['invalid', message])
  }
})

test('without a driver a disk is refused, or missing with a reason on stderr', async t => {
  // A namespace in which /dev has no driver.
  const program = (onMissing: string): string => `
    import { missing, tmpDisk } from 'ublk-ts/testing'
    const disk = await tmpDisk({ size: '1M', onMissing: '${onMissing}' }).catch(error => error.kind)
    console.log(disk, typeof await missing('${onMissing}').catch(error => error.kind))`
  const ask = async (onMissing: string): Promise<unknown> => {
    const words = 'mount -t tmpfs none /dev && exec "$@"'
    const script =
      'exec unshare --user --map-root-user --mount sh -c "$1" sh "$2" --input-type=module -e "$3"'
    const { status, stdout, stderr } = await result(
      shell(script, words, process.execPath, program(onMissing)),
    )
    return { status, stdout, stderr }
  }
  t.deepEqual(await ask('fail'), { status: 0, stdout: 'no-driver string\n', stderr: '' })
  const { stdout, stderr, status } = (await ask('skip')) as { stdout: string; stderr: string; status: number }
  t.deepEqual([status, stdout], [0, 'undefined string\n'])
  t.regex(stderr, /^ublk-ts: SKIPPED, no disk can be made here: [^\n]+\n$/, 'it is said once')
})

import { spawnSync } from 'node:child_process'
import {
  chmodSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'

const root = fileURLToPath(new URL('../../', import.meta.url))
const dir = mkdtempSync(`${tmpdir()}/ublk-ts-release-`)
test.after.always(() => rmSync(dir, { recursive: true, force: true }))

function run(command: string, words: string[] = [], env: NodeJS.ProcessEnv = {}, cwd = root) {
  const { status, stdout, stderr } = spawnSync(command, words, {
    cwd,
    encoding: 'utf8',
    env: { ...process.env, ...env },
  })
  return { status, stdout, stderr }
}

test('the notes of a release are what the changelog says of it', t => {
  const changelog = `${dir}/CHANGELOG.md`
  writeFileSync(
    changelog,
    '# Changelog\n\n## [Unreleased]\n\n## [1.10.0] - 2026-01-02\n\n### Added\n- One.\n\n### Fixed\n- Two.\n\n## 1.1.0\n- Three.\n',
  )
  const notes = (version: string) => run('scripts/release/notes', [version], { UBLK_TS_CHANGELOG: changelog })
  t.is(notes('1.10.0').stdout, '### Added\n- One.\n\n### Fixed\n- Two.\n')
  t.is(notes('1.1.0').stdout, '- Three.\n')
  for (const version of ['1.1', 'Unreleased', '2.0.0']) {
    const { status, stdout, stderr } = notes(version)
    t.deepEqual([status, stdout], [1, ''])
    t.regex(stderr, new RegExp(`CHANGELOG.md says nothing of ${version}\n`))
  }
})

/** A copy of what scripts/release/version changes. */
function repository(): string {
  const copy = `${dir}/repository`
  for (const path of [
    'package.json',
    'package-lock.json',
    'Cargo.toml',
    'Cargo.lock',
    'npm',
    'vm/lib.sh',
    'scripts/release',
  ]) {
    mkdirSync(dirname(join(copy, path)), { recursive: true })
    cpSync(root + path, join(copy, path), { recursive: true })
  }
  for (const crate of readdirSync(`${root}crates`)) {
    mkdirSync(`${copy}/crates/${crate}`, { recursive: true })
    cpSync(`${root}crates/${crate}/Cargo.toml`, `${copy}/crates/${crate}/Cargo.toml`)
    // A package needs a source file, or Cargo refuses the workspace.
    mkdirSync(`${copy}/crates/${crate}/src`)
    writeFileSync(`${copy}/crates/${crate}/src/lib.rs`, '')
  }
  for (const bench of ['benches', 'tests', 'examples']) {
    for (const crate of readdirSync(`${root}crates`)) {
      try {
        cpSync(`${root}crates/${crate}/${bench}`, `${copy}/crates/${crate}/${bench}`, { recursive: true })
      } catch {}
    }
  }
  return copy
}

test('a version is written into every package, and only one that the changelog has', t => {
  const copy = repository()
  const write = (changelog: string, version: string) => {
    writeFileSync(`${copy}/CHANGELOG.md`, changelog)
    return run('scripts/release/version', [version], {}, copy)
  }
  t.regex(write('## [Unreleased]\n', '7.8.9').stderr, /CHANGELOG.md has no entry for 7.8.9/)
  t.regex(write('## [Unreleased]\n', '7.8').stderr, /7.8 is not a version/)
  const { status, stdout, stderr } = write('## [7.8.9] - 2026-01-02\n', '7.8.9')
  t.is(status, 0, stderr)
  t.regex(stdout, /git tag v7.8.9 /)
  const json = (path: string) => JSON.parse(readFileSync(`${copy}/${path}`, 'utf8')) as { version: string }
  for (const native of readdirSync(`${copy}/npm`)) t.is(json(`npm/${native}/package.json`).version, '7.8.9')
  t.is(json('package.json').version, '7.8.9')
  t.is(json('package-lock.json').version, '7.8.9')
  t.regex(readFileSync(`${copy}/Cargo.toml`, 'utf8'), /^version = "7.8.9"$/m)
  t.regex(readFileSync(`${copy}/Cargo.lock`, 'utf8'), /name = "ublk-core"\nversion = "7.8.9"/)
})

const workflows = readdirSync(`${root}.github/workflows`).map(name => ({
  name,
  text: readFileSync(`${root}.github/workflows/${name}`, 'utf8'),
}))

test('workflows use actions at a commit, and every step is a script of the repository', t => {
  for (const { name, text } of workflows) {
    for (const [, used = ''] of text.matchAll(/\buses: (.*)/g)) {
      if (!used.startsWith('./')) t.regex(used, /^[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/, name)
    }
    for (const [, command = ''] of text.matchAll(/\brun: (.*)/g)) {
      const script = command.replace(/^sudo /, '').split(' ')[0] ?? ''
      t.truthy(statSync(root + script).mode & 0o100, `${name}: ${script}`)
      t.notRegex(command, /\$\{\{/, 'a value goes through the environment, where no shell reads it as code')
    }
  }
})

test('what is published is built without a cache, and with no more rights than it needs', t => {
  const text = (name: string) => workflows.find(workflow => workflow.name === name)?.text ?? ''
  t.notRegex(text('packages.yml') + text('release.yml'), /actions\/cache|(?<!package-manager-)cache:/)
  t.regex(text('release.yml'), /id-token: write\n[\s\S]*scripts\/release\/publish packages --provenance/)
  t.notRegex(text('release.yml'), /secrets\./)
  for (const { name, text } of workflows) t.regex(text, /^permissions:\n {2}contents: read$/m, name)
})

/** Runs the action's script where programs are as these say; returns its outputs too. */
function setUp(programs: Record<string, string>, env: NodeJS.ProcessEnv = {}) {
  const place = mkdtempSync(`${dir}/action-`)
  mkdirSync(`${place}/bin`)
  const all = {
    modprobe: 'exit 1',
    'apt-get': 'exit 1',
    sudo: '[ "$1" = -n ] && shift; exec "$@"',
    ...programs,
  }
  for (const [name, text] of Object.entries(all)) {
    writeFileSync(`${place}/bin/${name}`, `#!/bin/bash\necho "${name} $*" >>${place}/log\n${text}\n`)
    chmodSync(`${place}/bin/${name}`, 0o755)
  }
  for (const file of ['log', 'outputs']) writeFileSync(`${place}/${file}`, '')
  const ran = run('setup-ublk/setup', [], {
    PATH: `${place}/bin:${process.env['PATH']}`,
    GITHUB_OUTPUT: `${place}/outputs`,
    UBLK_CONTROL: `${place}/control`,
    CONTROL: `${place}/control`,
    ...env,
  })
  const outputs = Object.fromEntries(
    readFileSync(`${place}/outputs`, 'utf8')
      .split('\n')
      .filter(line => line !== '')
      .map(line => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
  )
  return { ...ran, outputs, log: readFileSync(`${place}/log`, 'utf8') }
}
const uname = (release: string, system = 'Linux') => `[ "$1" = -s ] && echo ${system} || echo ${release}`

test('the action adds no device, and loads nothing, where the kernel would crash', t => {
  const { status, stdout, outputs, log } = setUp({ uname: uname('6.17.0-1015-azure') }, { INPUT_DISK: '16M' })
  t.is(status, 1)
  t.regex(
    stdout,
    /^::error title=no ublk::Linux 6.17.0-1015-azure crashes when a ublk device is added, so none is: .*\n$/,
  )
  t.is(outputs['available'], 'false')
  t.regex(outputs['reason'] ?? '', /^Linux 6.17.0-1015-azure crashes/)
  t.notRegex(log, /modprobe|apt-get/)
})

test('the action says why there is no driver, as an error or as a warning', t => {
  const none = setUp({ uname: uname('6.12.0') })
  t.is(none.status, 1)
  t.regex(none.outputs['reason'] ?? '', /^the kernel 6.12.0 has no ublk driver/)
  t.regex(none.log, /apt-get install -y -q linux-modules-extra-6.12.0/)
  const optional = setUp({ uname: uname('6.12.0') }, { INPUT_REQUIRED: 'false' })
  t.is(optional.status, 0)
  t.regex(optional.stdout, /^::warning title=no ublk::the kernel/)
  t.is(optional.outputs['available'], 'false')
  const mac = setUp({ uname: uname('23.1.0', 'Darwin') })
  t.regex(mac.outputs['reason'] ?? '', /^ublk is a driver of Linux, and this is Darwin/)
})

test('the action loads the driver, after installing it where that helps, and makes a disk', t => {
  const loads = setUp({ uname: uname('6.12.0'), modprobe: 'touch "$CONTROL"' })
  t.is(loads.status, 0, loads.stdout)
  t.deepEqual(loads.outputs, { available: 'true' })
  t.notRegex(loads.log, /apt-get/)

  const installed = setUp(
    {
      uname: uname('6.12.0'),
      modprobe: '[ ! -e "$CONTROL.ko" ] || { touch "$CONTROL"; exit 0; }; exit 1',
      'apt-get': 'touch "$CONTROL.ko"',
    },
    { INPUT_DISK: '16M', UBLK_TS_COMMAND: 'echo /dev/ublkb7' },
  )
  t.is(installed.status, 0, installed.stdout)
  t.deepEqual(installed.outputs, { disk: '/dev/ublkb7 create --mem 16M --detach', available: 'true' })

  const noDisk = setUp(
    { uname: uname('6.12.0'), modprobe: 'touch "$CONTROL"' },
    { INPUT_DISK: '16M', UBLK_TS_COMMAND: 'false' },
  )
  t.is(noDisk.status, 1)
  t.regex(noDisk.outputs['reason'] ?? '', /no disk could be made/)
})

test("the project's own workflow accepts a reason, and not silence", t => {
  t.is(run('setup-ublk/said', ['true', '']).status, 0)
  t.is(run('setup-ublk/said', ['false', 'the kernel has none']).status, 0)
  t.is(run('setup-ublk/said', ['false', '']).status, 1)
})

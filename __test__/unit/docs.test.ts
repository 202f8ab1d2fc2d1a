import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import test from 'ava'
import * as api from 'ublk-ts'
import * as testing from 'ublk-ts/testing'
import {
  BLOCKS,
  commandsOf,
  DOCUMENTS,
  fileNameOf,
  isProgram,
  isShell,
  moduleOf,
  placeOf,
} from '../support/pages.js'
import { result, shell } from '../support/program.js'
import { checkProject } from '../support/tsc.js'

// Every block of code of the site: that it is well formed, and that a test runs it, or that it says why none does.

const root = fileURLToPath(new URL('../../', import.meta.url))
const yaml = createRequire(`${root}site/build.mjs`)('yaml') as { parse(text: string): unknown }

test('each block of code has a language that is tested, or none and is output', t => {
  t.true(BLOCKS.length > 70)
  const known = ['ts', 'js', 'sh', 'console', 'json', 'yaml', 'ini', 'py', 'go', 'fstab', '']
  for (const block of BLOCKS) t.true(known.includes(block.language), `${placeOf(block)}: ${block.language}`)
})

test('each block that is not run has a reason or names the test that runs it', t => {
  for (const block of BLOCKS) {
    const { runBy, notRun } = block
    if (notRun !== undefined) t.true(notRun.length > 8, placeOf(block))
    if (runBy !== undefined) {
      const path = [`__test__/kernel/${runBy}`, `__test__/unit/${runBy}`, runBy].find(path =>
        existsSync(root + path),
      )
      t.truthy(path, `${placeOf(block)}: there is no ${runBy}`)
    }
    if (['py', 'go', 'ini', 'fstab'].includes(block.language)) {
      t.truthy(runBy ?? notRun ?? block.file, `${placeOf(block)}: nothing runs ${block.language}`)
    }
  }
})

test('the programs of the pages compile, with all that strict says', async t => {
  const dir = `${root}dist-test/docs`
  rmSync(dir, { recursive: true, force: true })
  const programs = BLOCKS.filter(isProgram)
  t.true(programs.length > 20)
  for (const block of programs) {
    const path = `${dir}/${fileNameOf(block)}`
    mkdirSync(dirname(path), { recursive: true })
    writeFileSync(path, moduleOf(block, Object.keys(api), Object.keys(testing)))
  }
  // Not installed here: as much of it as the pages use.
  writeFileSync(
    `${dir}/vitest.d.ts`,
    `declare module 'vitest' {
      interface Matchers { toBe(value: unknown): void; toThrow(text: string): Promise<void>; rejects: Matchers }
      export function expect(value: unknown): Matchers
      export function onTestFinished(then: () => unknown): void
      interface Test {
        (name: string, body: (fixtures: any) => Promise<void>): void
        extend(fixtures: Record<string, (others: object, use: (value: unknown) => Promise<void>) => unknown>): Test
      }
      export const test: Test
    }`,
  )
  const compilerOptions = {
    noEmit: true,
    allowJs: true,
    checkJs: true,
    composite: false,
    incremental: false,
    isolatedDeclarations: false,
    exactOptionalPropertyTypes: true,
    rootDir: '.',
    noUnusedLocals: false,
    noUnusedParameters: false,
  }
  writeFileSync(
    `${dir}/tsconfig.json`,
    JSON.stringify({
      extends: '../../tsconfig.base.json',
      compilerOptions,
      include: ['**/*.ts', '**/*.mjs'],
    }),
  )
  t.is(await checkProject(dir, dir), '')
})

test('await using is in TypeScript only, and where it is, the form for older versions of Node is beside it', t => {
  for (const document of DOCUMENTS) {
    const own = BLOCKS.filter(block => block.document === document && /\bawait using\b/.test(block.code))
    for (const block of own) t.is(block.language, 'ts', placeOf(block))
    const text = readFileSync(root + document, 'utf8')
    if (own.length > 0) t.regex(text, /#older-versions-of-node|Symbol\.asyncDispose/, document)
  }
})

test('the commands of the pages are commands', async t => {
  for (const block of BLOCKS.filter(isShell)) {
    for (const { words } of commandsOf(block)) {
      const { status, stderr } = await result(shell('bash -n <<<"$1"', `${block.given}\n${words}`))
      t.is(status, 0, `${placeOf(block)}: ${stderr}`)
    }
    t.true(commandsOf(block).length > 0, placeOf(block))
  }
})

test('JSON and YAML of the pages, and the files beside them, are well formed', t => {
  for (const block of BLOCKS) {
    if (block.language === 'json') t.notThrows(() => JSON.parse(block.code), placeOf(block))
    if (block.language === 'yaml') t.notThrows(() => yaml.parse(block.code), placeOf(block))
    if (block.file?.startsWith('files/'))
      t.is(block.code, readFileSync(`${root}docs/${block.file}`, 'utf8'), placeOf(block))
  }
})

test('the seccomp profile names system calls that exist, and forbids none that a server needs', t => {
  interface Profile {
    defaultAction: string
    syscalls: { names: string[]; action: string }[]
  }
  const profile = JSON.parse(readFileSync(`${root}docs/files/seccomp.json`, 'utf8')) as Profile
  t.deepEqual(Object.keys(profile).sort(), ['architectures', 'defaultAction', 'syscalls'])
  t.is(profile.defaultAction, 'SCMP_ACT_ALLOW')
  const forbidden = profile.syscalls.flatMap(({ names, action }) => {
    t.is(action, 'SCMP_ACT_ERRNO')
    return names
  })
  const header =
    ['/usr/include/x86_64-linux-gnu/asm/unistd_64.h', '/usr/include/asm-generic/unistd.h'].find(existsSync) ??
    ''
  const calls = readFileSync(header, 'utf8')
  for (const name of forbidden) t.regex(calls, new RegExp(`__NR(?:3264)?_${name}\\b`), name)
  for (const needed of [
    'io_uring_setup',
    'io_uring_enter',
    'io_uring_register',
    'mount',
    'process_vm_readv',
    'mknodat',
  ]) {
    t.false(forbidden.includes(needed), needed)
  }
})

test('the pod has what a disk takes: all rights, and the devices of its node', t => {
  interface Pod {
    apiVersion: string
    kind: string
    spec: {
      containers: {
        securityContext: { privileged: boolean }
        volumeMounts: { name: string; mountPath: string }[]
      }[]
      volumes: { name: string; hostPath?: { path: string } }[]
    }
  }
  const { apiVersion, kind, spec } = yaml.parse(readFileSync(`${root}docs/files/pod.yaml`, 'utf8')) as Pod
  t.deepEqual([apiVersion, kind], ['v1', 'Pod'])
  for (const { securityContext, volumeMounts } of spec.containers) {
    t.true(securityContext.privileged)
    for (const { name } of volumeMounts)
      t.truthy(
        spec.volumes.find(volume => volume.name === name),
        name,
      )
    t.is(volumeMounts.find(({ mountPath }) => mountPath === '/dev')?.name, 'dev')
  }
  t.is(spec.volumes.find(({ name }) => name === 'dev')?.hostPath?.path, '/dev')
})

test('the page of metrics has every metric that is exported, and no other', t => {
  const source = readFileSync(`${root}ts/watch/openmetrics.ts`, 'utf8')
  const exported = [...new Set(source.match(/'ublk_[a-z_]+'/g))].map(name => name.slice(1, -1)).sort()
  const page = readFileSync(`${root}docs/metrics.md`, 'utf8')
  const told = [...page.matchAll(/^\| `(ublk_\w+)` \|/gm)].map(([, name]) => name).sort()
  t.deepEqual(told, exported)
})

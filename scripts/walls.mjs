#!/usr/bin/env node
// usage: scripts/walls.mjs [ROOT]
//
// Holds the walls between the rooms of the source: fails with a line for each import that no arrow below allows, and for
// each arrow that no import needs any more. An arrow has its reason beside it. `a → b`: files of room a may import files
// of room b; `a ⇢ b`: only by `import()`, so that b is loaded when it is needed.
//
//   ROOT  the repository; default: this one
import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'

/** Files of ts/ that stand below all rooms; the others beside them are the library (`api`), and index.ts is its entry. */
const base =
  'check choice disk-name errors info json kernels latency limits operation option-values pages path printable remedies size trace user-values version wire'.split(
    ' ',
  )

/** Rooms of TypeScript: folders of ts/. `bin` is what scripts/bundle.mjs makes of cli, `#binding` is the native part, `npm:x` a package, `argv` the process's arguments. */
const typescript = {
  'base → native': 'says how errors are made',
  'runtime → base': 'values of user code are checked, and failures are worded, as everywhere',
  'runtime → native': 'what helps where a bundler has left a file behind',
  'runtime → #binding': 'it serves native queues',
  'options → base': 'options are checked, and refused, as everywhere',
  'options → #binding': 'the type of what the native part gets',
  'options → backends': 'a device is made of one',
  'options → runtime': 'the properties of a JavaScript backend, and the type of an observer',
  'backends → base': 'options are checked and recorded',
  'backends → #binding':
    'an upper says whether its base is needed, and the native part whether it speaks with object stores',
  'backends → native': 'why the native part that speaks with object stores is not there',
  'backends → remote': 'the run directory, where sockets of helpers are',
  'backends → runtime': 'types of a JavaScript backend, and of what fills a lazy one',
  'remote → base': 'errors, and what travels on a control socket',
  'remote → #binding': 'asks the kernel what became of a server',
  'report → base': 'names from outside are made printable',
  'api → base': 'errors, sizes, checks',
  'api → #binding': 'it gives the native part its types',
  'api → options': 'devices are created, and taken over, with them',
  'api → backends': 'a device is made of one',
  'api → runtime': 'a device of a JavaScript backend is served by it',
  'api → report': 'a state after a power cut is described for people',
  'api → remote': 'a handle asks the server of a device that another process serves',
  'entry → base': 'public types',
  'entry → api': 'public functions and classes',
  'entry → options': 'their types are public',
  'entry → backends': 'functions that make backends',
  'entry → runtime': 'types of a JavaScript backend are public',
  'entry ⇢ daemon': 'a device whose options ask for a record has the daemon keep it',
  'daemon → base': 'errors, sizes, JSON',
  'daemon → remote': 'writes the records and speaks the protocol that others read and speak',
  'daemon → backends': 'they are recorded, and made again from a record',
  'daemon → options': 'they are recorded, and made again from a record',
  'daemon → api': 'types of devices and options',
  'daemon → entry': 'it serves disks as any program does, through the package',
  'daemon → #binding': 'peers of sockets, systemd, locked memory',
  'daemon → npm:@logtape/logtape': 'logs',
  'mounting → base': 'errors',
  'mounting → api': 'rules of faults are set once a file system is mounted',
  'mounting → backends': 'types of a disk',
  'mounting → options': 'types of a disk',
  'mounting → entry': 'it makes disks as any program does, through the package',
  'mounting → remote': 'what outlives a process knows it by its identity',
  'mounting ⇢ bin': 'what outlives a process deletes its device with the program',
  'testing → base': 'options are checked, and refused, as everywhere',
  'testing → api': 'rules of faults',
  'testing → mounting': 'file systems are made and mounted',
  'testing → entry': 'it makes disks as any program does, through the package',
  'watch → base': 'counters',
  'watch → api': 'types of devices',
  'watch → remote': 'keeps connections to the servers whose counters it reads',
  'watch → npm:prom-client': 'OpenMetrics',
  'dashboard → base': 'errors; types of what is shown',
  'dashboard → api': 'types of devices and faults',
  'dashboard → backends': 'of what a disk is made, in words',
  'dashboard → remote': 'asks servers where their disks are read and written',
  'dashboard → watch': 'shows the counters that it reads',
  'dashboard → npm:uplot': 'charts; the build puts it into the page',
  'cli → base': 'errors, sizes, JSON',
  'cli → backends': 'their options, and what is shown of them',
  'cli → options': 'flags and their help are made of the table of options',
  'cli → api': 'types of devices and options',
  'cli ⇢ entry': 'commands start, and explain, where the native part cannot be loaded',
  'cli → native': 'doctor says why there is no native part',
  'cli ⇢ #binding': 'doctor tries io_uring where the library cannot be used',
  'cli → remote': 'records of devices, also of those that are gone',
  'cli → daemon': 'servers in the foreground and in the background',
  'cli ⇢ bin': 'servers in the background are the program, too',
  'cli ⇢ mounting': 'a disk for one command',
  'cli ⇢ dashboard': 'a page that shows all devices',
  'cli → watch': 'stats, top and metrics show what it reads',
  'cli → npm:commander': 'words of the command line',
  'cli → argv': 'words of the command line',
}

/** Rooms of a Rust crate: its modules. All may use those of `ground`. */
const rust = {
  'ublk-core': {
    ground:
      'abi bound cancel cells error features hint io_flusher mapping nodes number pages priority report request uring waker'.split(
        ' ',
      ),
    allowed: {
      'backend → claim': 'a backend says which files are to be claimed',
      'backend → queue': 'an engine serves the requests of a queue',
      'choice → queue': 'names of the transports and copy modes',
      'spec → backend': 'sizes come from the backend',
      'spec → choice': 'what was chosen is a part of the checked options',
      'spec → queue': 'buffers of the queues',
      'device → backend': 'each queue has an engine of the backend',
      'device → choice': 'a device is made for one way of serving',
      'device → claim': 'claims the files of its backend while it is live',
      'device → control': 'the driver makes, starts and stops the device',
      'device → queue': 'its threads serve queues',
      'device → telemetry': 'reads what its queues have counted',
      'device → registry': 'the users of a disk that is to be stopped',
      'device → spec': 'what device to make',
      'queue → telemetry': 'counts its requests, and traces them',
      'registry → control': 'asks the driver about devices, and ends them',
      'testing → backend': 'tests look at every room',
      'testing → control': 'tests look at every room',
      'testing → device': 'tests look at every room',
      'testing → queue': 'tests look at every room',
      'testing → spec': 'tests look at every room',
    },
  },
  'ublk-node': {
    ground: ['number', 'task', 'wire'],
    allowed: {
      'task → task_threads': 'on which tasks run',
      'device → kinds': 'the files of an existing disk are compared',
      'device → opening': 'opens the backend from its options',
      'opening → kinds': 'makes the backend from its options',
      'opening → hooks': 'what a backend calls in JavaScript',
      'device → hooks': 'what it calls in JavaScript',
      'device → queue': 'its queues, that a JavaScript thread serves',
      'device → registry': 'the objects that describe a device',
      'registry → kinds': 'what is chosen for a kind of backend',
      'device → telemetry': 'its counters and traces',
      'device → faults': 'what the rules of a disk have done',
      'device → heat': 'where a disk is read and written',
      'device → layers': 'the layers of an overlay',
      'device → lazy': 'how much of a lazy disk is there',
      'device → volume': 'how a volume in an object store stands',
      'kinds → volume': 'tells that of the disk that it opens',
      'device → changes': 'checkpoints, and what was changed since',
      'device → diff': 'writes what was changed since',
      'device → powercut': 'cuts the power, and goes through what that may leave',
      'powercut → account': 'what happened until the power failed',
      'powercut → kinds': 'disks are made of states',
    },
  },
}

process.chdir(process.argv[2] ?? join(import.meta.dirname, '..'))
const wrong = []

checkTypeScript()
for (const [crate, rules] of Object.entries(rust)) checkRust(crate, rules)
for (const line of wrong) process.stderr.write(`walls: ${line}\n`)
if (wrong.length > 0) process.exitCode = 1

function checkTypeScript() {
  const used = new Set()
  for (const file of filesBelow('ts', '.ts')) {
    const from = roomOf(file)
    for (const { what, lazy } of importsOf(file)) {
      const to = what.startsWith('.') ? roomOf(resolved(file, what)) : what
      if (to === from) continue
      const arrow = [`${from} → ${to}`, ...(lazy ? [`${from} ⇢ ${to}`] : [])].find(name => name in typescript)
      if (arrow) used.add(arrow)
      else wrong.push(`${file} imports ${what}, but ${from} ${lazy ? '⇢' : '→'} ${to} is not allowed`)
    }
  }
  if (process.argv[2] !== undefined) return
  for (const arrow of Object.keys(typescript)) {
    if (!used.has(arrow)) wrong.push(`no import needs ${arrow} any more: remove it from scripts/walls.mjs`)
  }
}

/** What a file imports: a path, `#binding`, `npm:x`, or `argv`. */
function importsOf(file) {
  const text = readFileSync(file, 'utf8')
  const found = []
  const pattern = /\b(from|import|import\(|new URL\()\s*'([^'\n]+)'/g
  for (const [, how, what] of text.matchAll(pattern)) {
    if (what.startsWith('node:') || what.endsWith('.json')) continue
    const lazy = how.endsWith('(')
    if (what.startsWith('.') || what === '#binding') found.push({ what, lazy })
    else if (how !== 'new URL(') found.push({ what: `npm:${what}`, lazy })
  }
  if (/\bprocess\.argv\b/.test(text)) found.push({ what: 'argv', lazy: false })
  return found
}

function resolved(file, what) {
  return normalize(join(dirname(file), what)).replace(/\.js$/, '.ts')
}

function roomOf(file) {
  const [, ...path] = file.replace(/\.ts$/, '').split('/')
  if (path.length > 1) return path[0]
  return path[0] === 'index' ? 'entry' : base.includes(path[0]) ? 'base' : 'api'
}

function checkRust(crate, { ground, allowed }) {
  const used = new Set()
  const source = `crates/${crate}/src`
  const modules = new Set(filesBelow(source, '.rs').map(file => moduleOf(file, source)))
  for (const file of filesBelow(source, '.rs')) {
    const from = moduleOf(file, source)
    for (const to of pathsOf(file)) {
      // What lib.rs exports again counts as the crate's, not as that of a room.
      if (to === from || !modules.has(to) || from === 'lib' || ground.includes(to)) continue
      const arrow = `${from} → ${to}`
      used.add(arrow)
      if (arrow in allowed) continue
      wrong.push(`${file} uses crate::${to}, but ${arrow} is not allowed in ${crate}`)
    }
  }
  if (process.argv[2] !== undefined) return
  for (const arrow of Object.keys(allowed)) {
    if (!used.has(arrow))
      wrong.push(`no import in ${crate} needs ${arrow} any more: remove it from scripts/walls.mjs`)
  }
}

function moduleOf(file, source) {
  return file
    .slice(source.length + 1)
    .replace(/\.rs$/, '')
    .split('/')[0]
}

/** The modules of the crate that a file names, but for its tests. */
function pathsOf(file) {
  const text = readFileSync(file, 'utf8')
    .replace(/#\[cfg\(test\)\]\s*mod \w+ \{[\s\S]*/, '')
    .replace(/\/\/.*/g, '')
  const found = new Set()
  for (const [, one, group] of text.matchAll(/\bcrate::(?:(\w+)|\{([\s\S]*?)\};)/g)) {
    if (one !== undefined) found.add(one)
    else for (const [name] of withoutGroups(group).matchAll(/(?<![:\w])\w+/g)) found.add(name)
  }
  return found
}

/** `a::{b, c::{d}}, e` → `a::, e` */
function withoutGroups(text) {
  const next = text.replace(/\{[^{}]*\}/g, '')
  return next === text ? text : withoutGroups(next)
}

function filesBelow(folder, ending) {
  try {
    return readdirSync(folder, { recursive: true })
      .filter(name => name.endsWith(ending))
      .map(name => join(folder, name))
      .sort()
  } catch {
    return [] // A repository of a test has not all.
  }
}

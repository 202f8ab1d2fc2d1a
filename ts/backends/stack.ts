/** Functions for a stack: a backend and all the backends that it consists of. */
import { invalid } from '../errors.js'
import { cannotRecord, type Json, toPlainJson } from '../json.js'
import type { Filling } from '../runtime/lazy-fetcher.js'
import { formatSize } from '../size.js'
import { nameOf } from '../user-values.js'
import type { Described, DescribedJson, Kind } from './kind.js'
import { KINDS, kindOf } from './list.js'
import { isScratchFile } from './scratch-file.js'

/** The maximum depth of a stack. */
const MOST_LEVELS = 16

/**
 * Checks a native backend and those below it, and returns a checked copy.
 *
 * @throws UblkError of kind `invalid`.
 */
export function checkStack(backend: unknown): Described {
  const kind = kindOf(backend)
  if (!kind?.native) {
    throw invalid(
      'there is no such backend',
      "make one with memory('16M'), nullDisk('1T'), file('disk.img') or lazy({ size, fetch })",
    )
  }
  const made = checked(backend as Described, kind, 1)
  const lazy = nodesOf(made).filter(({ kind }) => kind.name === 'lazy')
  if (lazy.length > 1) throw invalid('more than one lazy disk is in a stack', 'one is possible')
  return made
}

function checked(backend: Described, kind: Kind, level: number): Described {
  if (level > MOST_LEVELS) throw invalid(`more than ${MOST_LEVELS} backends stand on each other`)
  const made = kind.check(backend)
  if (!kind.below || !kind.withBelow) return made
  const below = kind.below(made).map(each => {
    const its = kindOf(each)
    const wrong = misfit(each, kind)
    if (its && !wrong) return checked(each, its, level + 1)
    throw invalid(
      `${nameBelow(wrong, kindOf(wrong))} cannot be below ${withArticle(kind.name)}`,
      `disks of kind ${list(stackable(kind))} can`,
    )
  })
  return kind.withBelow(made, below)
}

/** What cannot be below a kind: a backend, or one below it through which that kind would see it. */
function misfit(backend: unknown, kind: Kind): unknown {
  const its = kindOf(backend)
  if (kind.transparent) return its?.native ? undefined : backend
  if (its?.transparent) {
    const wrong = (its.below?.(backend as Described) ?? []).map(each => misfit(each, kind))
    return wrong.find(each => each !== undefined)
  }
  return its?.stackable || (its && kind.takesLazy && its.name === 'lazy') ? undefined : (backend ?? {})
}

function withArticle(name: string): string {
  return `${/^[aeiou]/.test(name) ? 'an' : 'a'} ${name}`
}

function nameBelow(backend: unknown, kind: Kind | undefined): string {
  if (kind?.native) return `${withArticle(kind.name)} disk`
  const described = typeof backend === 'object' && backend !== null && 'kind' in backend
  return kind || !described ? 'a disk written in JavaScript' : `the unknown kind ${nameOf(backend.kind)}`
}

/** The names of the kinds that can be below another. */
function stackable({ takesLazy, transparent }: Kind): string[] {
  return KINDS.filter(
    kind => kind.stackable || (transparent && kind.native) || (takesLazy && kind.name === 'lazy'),
  ).map(kind => kind.name)
}

function list(names: readonly string[]): string {
  return names.length < 2 ? names.join() : `${names.slice(0, -1).join(', ')} and ${names.at(-1)}`
}

/** A backend, and all those that it consists of. Unknown kinds, as in a damaged record, are skipped. */
export function nodesOf(backend: unknown): { backend: Described; kind: Kind }[] {
  const kind = kindOf(backend)
  if (!kind) return []
  const node = { backend: backend as Described, kind }
  return [node, ...belowOf(node).flatMap(nodesOf)]
}

function belowOf({ backend, kind }: { backend: Described; kind: Kind }): readonly Described[] {
  return kind.below?.(backend) ?? []
}

/** The same stack with each backend replaced by the result of `change`, from the bottom up. */
export function mapStack<Node extends object>(
  backend: Described,
  change: (backend: Described, kind: Kind) => Node,
): Node {
  const kind = kindOf(backend)
  if (!kind) throw invalid('there is no such backend')
  const below = kind.below?.(backend)
  if (!below || !kind.withBelow) return change(backend, kind)
  const changed = below.map(each => mapStack(each, change) as unknown as Described)
  return change(kind.withBelow(backend, changed), kind)
}

/** What the native part takes. */
export function stackToNative(backend: Described): DescribedJson {
  const native = mapStack(backend, (each, kind) => ({ kind: kind.name, ...(kind.toNative?.(each) ?? {}) }))
  return toPlainJson(native, 'backend') as DescribedJson
}

/**
 * A backend as a record keeps it.
 *
 * @throws UblkError of kind `invalid` if JSON cannot represent it.
 */
export function stackToRecord(backend: unknown): Json {
  if (!kindOf(backend)) throw cannotRecord('an object as backend has functions')
  const recorded = mapStack(backend as Described, (each, kind) => kind.toRecord?.(each) ?? each)
  return toPlainJson(recorded, 'backend')
}

/** The same without claims on files. */
export function stackWithoutClaims(backend: Json): Json {
  const without = (each: Described, kind: Kind): Described => kind.withoutClaim?.(each) ?? each
  return kindOf(backend) ? (mapStack(backend as unknown as Described, without) as unknown as Json) : backend
}

/** The size of a disk in bytes, if that does not depend on what is opened. */
export function sizeOf(backend: Described): number | undefined {
  const kind = kindOf(backend)
  const [disk] = (kind?.sameSize && kind.below?.(backend)) || []
  return disk ? sizeOf(disk) : kind?.size?.(backend)
}

/** The backend with a disk's present size, in bytes. */
export function ofSize<Backend>(backend: Backend, size: number): Backend {
  const [kind, described] = [kindOf(backend), backend as unknown as Described]
  const [disk] = (kind?.sameSize && kind.below?.(described)) || []
  const sized = disk ? kind?.withBelow?.(described, [ofSize(disk, size)]) : kind?.ofSize?.(described, size)
  return sized === undefined ? backend : (sized as unknown as Backend)
}

/** The same with its memory in files that outlive its server. `made` is called with each file that is created for that. */
export function lastingStack(backend: Described, made: (path: string) => void): Described {
  return mapStack(backend, (each, kind) => kind.lasting?.(each, made) ?? each)
}

/** The same without the files that {@link lastingStack} made, to compare stacks: these files differ each time. */
export function withoutScratchFiles(backend: Json): Json {
  const without = (each: Described, { lastingIn: field }: Kind): Described => {
    const file = field === undefined ? undefined : (each as Described & Record<string, unknown>)[field]
    return isScratchFile(file) ? ({ ...each, [field as string]: undefined } as Described) : each
  }
  return kindOf(backend) ? (mapStack(backend as unknown as Described, without) as unknown as Json) : backend
}

/** Where it gets missing data. */
export function fillingOf(backend: unknown): Filling | undefined {
  return nodesOf(backend)
    .map(({ backend, kind }) => kind.filling?.(backend))
    .find(filling => filling !== undefined)
}

/**
 * A backend that can be opened: with what has to be asked elsewhere before.
 *
 * @throws UblkError of kind `backend`; the signal's reason if it was aborted.
 */
export async function prepared<Backend>(backend: Backend, signal: AbortSignal): Promise<Backend> {
  const kind = kindOf(backend)
  if (!kind?.prepare && !kind?.below) return backend
  return (await preparedStack(checkStack(backend), kind, signal)) as unknown as Backend
}

async function preparedStack(described: Described, kind: Kind, signal: AbortSignal): Promise<Described> {
  const backend = (await kind.withoutUnneeded?.(described)) ?? described
  if (kind.prepare) return await kind.prepare(backend, signal)
  const below = kind.below?.(backend)
  if (!below || !kind.withBelow) return backend
  const each = below.map(async each => await preparedStack(each, kindOf(each) as Kind, signal))
  return kind.withBelow(backend, await Promise.all(each))
}

/** The files that its server uses. */
export function pathsOf(backend: unknown): string[] {
  return nodesOf(backend).flatMap(({ backend, kind }) => kind.paths?.(backend) ?? [])
}

/** The files in memory that hold its data; null stands for memory of its server. */
export function memoryOf(backend: unknown): (string | null)[] {
  return nodesOf(backend)
    .map(({ backend, kind }) => kind.memory?.(backend))
    .filter(memory => memory !== undefined)
}

/** A description in one line, without the name of its kind: `a.img, slice(b.img, at 1M), chunk 64K`. */
export function summaryOf(backend: unknown): string {
  const kind = kindOf(backend)
  if (!kind) return ''
  const node = { backend: backend as Described, kind }
  const parts = [...belowOf(node).map(nested), kind.label(node.backend)]
  return parts.filter(part => part !== '').join(', ')
}

/** Its kind and its {@link summaryOf | summary}; undefined of what is no backend. */
export function wordsFor(backend: unknown): string | undefined {
  const kind = kindOf(backend)
  return kind && `${kind.name} ${summaryOf(backend)}`.trimEnd()
}

function nested(backend: Described): string {
  const [kind, summary] = [kindOf(backend), summaryOf(backend)]
  if (!kind) return '?'
  if (kind.below) return `${kind.name}(${summary})`
  return summary || `${kind.name} ${shortSize({ backend, kind })}`.trimEnd()
}

function shortSize({ backend, kind }: { backend: Described; kind: Kind }): string {
  const size = kind.size?.(backend)
  return size === undefined ? '' : formatSize(size)
}

/** A drawing of the stack as a tree, with a line for each backend. */
export function drawStack(backend: unknown): string[] {
  const kind = kindOf(backend)
  if (!kind) return []
  const node = { backend: backend as Described, kind }
  const below = belowOf(node)
  const label = kind.label(node.backend) || shortSize(node)
  const lines = [`${kind.name} ${label}`.trimEnd()]
  for (const [at, each] of below.entries()) {
    const [first, others] = at === below.length - 1 ? ['└─ ', '   '] : ['├─ ', '│  ']
    lines.push(...drawStack(each).map((line, number) => (number === 0 ? first : others) + line))
  }
  return lines
}

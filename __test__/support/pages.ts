import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const root = fileURLToPath(new URL('../../', import.meta.url))
const { PAGES } = (await import(`${root}site/contents.mjs`)) as { PAGES: readonly string[] }

/** The documents that the site is made of. */
export const DOCUMENTS: readonly string[] = ['README.md', ...PAGES.map(page => `docs/${page}.md`)]

/**
 * A block of code of a page. Comments right before it, which readers do not see, say how it is tested:
 *
 * - `<!-- given CODE -->`: what it takes for granted, in its own language (for commands: in bash);
 * - `<!-- stays -->`: its last command goes on until the commands of the page have ended;
 * - `<!-- file: NAME -->`: its text is that of a file;
 * - `<!-- run by: NAME -->`: the test that runs it, or its commands, in __test__ or scripts;
 * - `<!-- not run: REASON -->`: nobody runs it here, and why.
 */
export interface Block {
  readonly document: string
  /** Of its first line, from 1. */
  readonly line: number
  readonly language: string
  readonly code: string
  readonly given: string
  readonly stays: boolean
  readonly file: string | undefined
  readonly runBy: string | undefined
  readonly notRun: string | undefined
}

/** The blocks of code of a document, in order. */
export function blocksOf(document: string): Block[] {
  const text = readFileSync(root + document, 'utf8')
  const blocks = text.matchAll(/((?:^<!--(?:(?!-->)[\s\S])*-->\n)*)^```(\w*)\n([\s\S]*?)^```$/gm)
  return Array.from(blocks, ({ index, 1: comments = '', 2: language = '', 3: code = '' }) => {
    const told = (word: string): string | undefined =>
      new RegExp(`<!-- ${word}(?:: |\\n| )([\\s\\S]*?) ?-->`).exec(comments)?.[1]
    return {
      document,
      line: text.slice(0, index + comments.length).split('\n').length + 1,
      language,
      code,
      given: told('given') ?? '',
      stays: comments.includes('<!-- stays -->'),
      file: told('file'),
      runBy: told('run by'),
      notRun: told('not run'),
    }
  })
}

/** All blocks of code of the site. */
export const BLOCKS: readonly Block[] = DOCUMENTS.flatMap(blocksOf)

/** Where a block is, as compilers say it. */
export const placeOf = ({ document, line }: Block): string => `${document}:${line}`

/** Whether it is a program, or a part of one. */
export const isProgram = ({ language }: Block): boolean => language === 'ts' || language === 'js'

/** Whether it is commands. */
export const isShell = ({ language }: Block): boolean => language === 'sh' || language === 'console'

/** Something that a user types, and what is said then, if the page shows that. */
export interface Command {
  readonly words: string
  readonly said: string | undefined
}

/** The commands of a block. Lines of a console that do not begin with a prompt are what a command says. */
export function commandsOf({ language, code }: Block): Command[] {
  if (language === 'sh') return [{ words: code, said: undefined }]
  const commands: { words: string; said: string | undefined }[] = []
  let unfinished = false
  for (const line of code.trimEnd().split('\n')) {
    const last = commands.at(-1)
    const [, typed] = /^[#$] (.*)$/.exec(line) ?? []
    if (last && unfinished) last.words += `\n${line}`
    else if (typed !== undefined) commands.push({ words: typed, said: undefined })
    else if (last) last.said = last.said === undefined ? line : `${last.said}\n${line}`
    unfinished = (typed !== undefined || unfinished) && line.endsWith('\\')
  }
  return commands
}

/**
 * A block as a module that compiles by itself: after what it takes for granted, with what it uses of the package if it does not
 * import that itself.
 *
 * @param api - Names that `ublk-ts` exports, and `testing` those of `ublk-ts/testing`.
 */
export function moduleOf(block: Block, api: readonly string[], testing: readonly string[]): string {
  const { given, code } = block
  if (/^export default/m.test(code)) return code
  const body = `${given}\n${code}`
  // Neither what it declares or imports itself, nor a key or a property.
  const used = (names: readonly string[]): string[] =>
    names.filter(
      name =>
        new RegExp(`(?<![.\\w'])${name}\\b(?!:)`).test(body) &&
        !new RegExp(`(import [^\\n]*|const |function )\\b${name}\\b`).test(body),
    )
  const imports = [
    [used([...api, ...TYPES]).map(name => (TYPES.includes(name) ? `type ${name}` : name)), 'ublk-ts'],
    [used(testing), 'ublk-ts/testing'],
  ] as const
  const lines = imports.map(([names, from]) =>
    names.length > 0 ? `import { ${names.join(', ')} } from '${from}'\n` : '',
  )
  return `${lines.join('')}${body}\nexport {}\n`
}

const TYPES: readonly string[] = ['CrashState']

/** A name for the file of a block. */
export function fileNameOf({ document, line, language, code }: Block): string {
  const named = /^\/\/ (\S+\.(?:mjs|ts))\n/.exec(code)?.[1]
  const dir = document.replace(/^docs\//, '').replace(/\.md$/, '')
  return `${dir}/${named ?? `line-${line}.${language === 'js' ? 'mjs' : 'ts'}`}`
}

import { readdirSync, readFileSync } from 'node:fs'
import { basename } from 'node:path'

/** An example in the TSDoc of a declaration. */
export interface Example {
  /** The source and the declaration, such as `device snapshot`; with a number if that has several. */
  readonly name: string
  readonly code: string
}

/** The examples in the sources under a directory. */
export function examplesIn(dir: string): Example[] {
  const sources = readdirSync(dir, { recursive: true, encoding: 'utf8' }).filter(name => name.endsWith('.ts'))
  return sources
    .sort()
    .flatMap(source => examplesOf(basename(source, '.ts'), readFileSync(`${dir}/${source}`, 'utf8')))
}

function examplesOf(file: string, source: string): Example[] {
  const examples: Example[] = []
  for (const [, comment = '', declaration = ''] of source.matchAll(
    /^ *\/\*\*\n((?: *\*(?!\/).*\n)+) *\*\/\n(.*)$/gm,
  )) {
    const blocks = [...comment.matchAll(/^ *\* ```ts\n((?: *\*.*\n)*?) *\* ```$/gm)]
    blocks.forEach(([, block = ''], number) => {
      const name = `${file} ${nameIn(declaration)}${number > 0 ? ` ${number + 1}` : ''}`
      examples.push({ name, code: block.replaceAll(/^ *\* ?/gm, '') })
    })
  }
  return examples
}

function nameIn(declaration: string): string {
  const [, name] =
    /(?:function\*?|class|type) (\w+)/.exec(declaration) ??
    /^ +(?:static )?(?:override )?(?:async )?\*?(\w+)[(<]/.exec(declaration) ??
    []
  if (name === undefined) throw new Error(`what does this declare: ${declaration}`)
  return name
}

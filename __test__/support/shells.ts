import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { run, sh } from './program.js'

export const SHELLS = ['bash', 'zsh', 'fish'] as const
export type Shell = (typeof SHELLS)[number]

/** The keys that put every completion into the line, in the shells below. */
const ALL = '\x18\x01'

/** Starts bash with the script sourced. What is entered goes, word by word, to a file. */
const bash = (dir: string): string => {
  writeFileSync(
    `${dir}/rc`,
    `source ${dir}/script
    ublk-ts() { echo "$*" >>${dir}/entered; }
    bind '"${'\\C-x\\C-a'}": insert-completions'\n`,
  )
  return `bash --rcfile ${dir}/rc -i`
}

/** Starts zsh with the script in its `fpath`. */
const zsh = (dir: string): string => {
  writeFileSync(
    `${dir}/.zshrc`,
    `fpath=(${dir} $fpath)
    autoload -Uz compinit; compinit -u -D
    ublk-ts() { print -r -- "$*" >>${dir}/entered }
    zle -C all-matches complete-word _generic
    bindkey '^X^A' all-matches
    zstyle ':completion:all-matches:*' insert yes
    zstyle ':completion:all-matches::::' completer _all_matches _complete\n`,
  )
  return `ZDOTDIR=${dir} zsh -d -i`
}

/** What a shell offers at the end of each of these lines, sorted; fish tells it, the others are driven by keys. */
export async function completions(shell: Shell, lines: readonly string[]): Promise<string[][]> {
  const dir = mkdtempSync('/tmp/shell-')
  try {
    const { stdout } = await run('completion', shell)
    writeFileSync(`${dir}/${shell === 'zsh' ? '_ublk-ts' : 'script'}`, stdout)
    if (shell === 'fish') return await Promise.all(lines.map(line => inFish(dir, line)))
    const start = { bash, zsh }[shell](dir)
    writeFileSync(`${dir}/keys`, `${lines.map(line => `ublk-ts ${line}${ALL}\n`).join('')}exit\n`)
    await sh(`timeout 60 script -qec "$1" /dev/null <${dir}/keys >/dev/null`, start)
    const entered = readFileSync(`${dir}/entered`, 'utf8').split('\n')
    return lines.map((line, at) => {
      const typed = line.split(' ')
      const words = (entered[at] ?? '').split(' ').slice(typed.length - 1)
      // Where there is nothing to offer, zsh offers options.
      return offered(words.filter(word => typed.at(-1)?.startsWith('-') || !word.startsWith('-')))
    })
  } finally {
    rmSync(dir, { recursive: true })
  }
}

async function inFish(dir: string, line: string): Promise<string[]> {
  const found = await sh(`fish -c "source ${dir}/script; complete -C \\$argv[1]" "$1"`, `ublk-ts ${line}`)
  return offered(found.split('\n').map(line => line.replace(/\t.*/, '')))
}

/** Some shells repeat the `--option=` of a value. */
function offered(words: readonly string[]): string[] {
  return words
    .filter(word => word !== '')
    .map(word => word.replace(/^--[a-z-]+=/, ''))
    .sort()
}

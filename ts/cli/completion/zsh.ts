import { type Flag, namesOf, type Outline, type Place, type Value, withTheirOwn, wordOf } from './outline.js'

/** The script for zsh: a file for its `fpath`, which can be sourced as well. */
export function zsh({ root, commands }: Outline): string {
  return `#compdef ublk-ts
# Completion of ublk-ts for zsh, made by \`ublk-ts completion zsh\`.

_ublk-ts_devices() {
  local -a ids=(/sys/class/ublk-char/ublkc*(N:t:s/ublkc//)) names=(/dev/ublk/*(N))
  if [[ $PREFIX == /* ]]; then ids=(/dev/ublkb$^ids); else names=($names:t); fi
  compadd -a ids names
}

${[...withTheirOwn(commands), { ...root, name: '', commands }].map(functions).join('')}if [[ $funcstack[1] == _ublk-ts ]]; then _ublk-ts "$@"; else compdef _ublk-ts ublk-ts; fi
`
}

/** What completes the words after one that other commands can follow. */
function functions({ name, flags, commands }: Place): string {
  if (commands.length === 0) return ''
  const own = functionOf(name)
  return `${own}_commands() {
  local -a commands=(
${commands.map(command => `    ${quote(`${wordOf(command.name)}:${command.summary}`)}`).join('\n')}
  )
  _describe command commands
}

${own}() {
  local curcontext=$curcontext state line
  local -A opt_args
  _arguments -C \\
${flags.map(flag => `    ${specification(flag)} \\\n`).join('')}    '1: :${own}_commands' '*:: :->arguments'
  [[ -n $state ]] || return
  case $line[1] in
${commands.map(branch).join('\n')}
  esac
}

`
}

function functionOf(name: string): string {
  return ['_ublk-ts', ...name.split(' ').filter(word => word !== '')].join('_')
}

function branch(command: Place): string {
  const names = [command.name, ...command.aliases].map(wordOf).join('|')
  if (command.commands.length > 0) return `    ${names}) ${functionOf(command.name)};;`
  const last = command.values.length - 1
  const words = [
    ...command.flags.map(specification),
    ...command.values.map((value, at) =>
      quote(`${at === last && command.repeated ? '*' : at + 1}: :${action(value)}`),
    ),
  ]
  return `    ${names}) _arguments \\\n      ${words.join(' \\\n      ')};;`
}

/** One argument of `_arguments`; an option with two names is not offered again under the other. */
function specification(flag: Flag): string {
  const names = namesOf(flag)
  const forms = flag.value ? names.map(name => (name.startsWith('--') ? `${name}=` : `${name}+`)) : names
  const summary = `[${flag.summary.replaceAll(/[\\[\]:]/g, '\\$&')}]`
  const rest = quote(flag.value ? `${summary}: :${action(flag.value)}` : summary)
  return names.length === 1 ? `${forms[0]}${rest}` : `'(${names.join(' ')})'{${forms.join(',')}}${rest}`
}

function action(value: Value): string {
  switch (value.kind) {
    case 'words':
      return `(${value.words.join(' ')})`
    case 'files':
      return '_files'
    case 'directories':
      return '_files -/'
    case 'devices':
      return '_ublk-ts_devices'
    case 'anything':
      return ' '
  }
}

function quote(text: string): string {
  return `'${text.replaceAll("'", "'\\''")}'`
}

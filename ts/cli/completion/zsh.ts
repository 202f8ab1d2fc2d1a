import { type Flag, namesOf, type Outline, type Place, type Value } from './outline.js'

/** The script for zsh: a file for its `fpath`, which can be sourced as well. */
export function zsh({ root, commands }: Outline): string {
  return `#compdef ublk-ts
# Completion of ublk-ts for zsh, made by \`ublk-ts completion zsh\`.

_ublk-ts_commands() {
  local -a commands=(
${commands.map(command => `    ${quote(`${command.name}:${command.summary}`)}`).join('\n')}
  )
  _describe command commands
}

_ublk-ts_devices() {
  local -a ids=(/sys/class/ublk-char/ublkc*(N:t:s/ublkc//))
  [[ $PREFIX != /* ]] || ids=(/dev/ublkb$^ids)
  compadd -a ids
}

_ublk-ts() {
  local curcontext=$curcontext state line
  local -A opt_args
  _arguments -C \\
${root.flags.map(flag => `    ${specification(flag)} \\\n`).join('')}    '1: :_ublk-ts_commands' '*:: :->arguments'
  [[ -n $state ]] || return
  case $line[1] in
${commands.map(branch).join('\n')}
  esac
}

if [[ $funcstack[1] == _ublk-ts ]]; then _ublk-ts "$@"; else compdef _ublk-ts ublk-ts; fi
`
}

function branch(command: Place): string {
  const last = command.values.length - 1
  const words = [
    ...command.flags.map(specification),
    ...command.values.map((value, at) =>
      quote(`${at === last && command.repeated ? '*' : at + 1}: :${action(value)}`),
    ),
  ]
  return `    ${[command.name, ...command.aliases].join('|')}) _arguments \\\n      ${words.join(' \\\n      ')};;`
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
